"""Who gets what where: exact weighted aggregate max-min fairness. Pure: values in, values out."""
