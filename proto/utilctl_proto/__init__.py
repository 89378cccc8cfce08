"""Generated protobuf and gRPC code (``make proto``). Only codecs import it."""
