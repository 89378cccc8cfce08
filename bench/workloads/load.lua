-- For wrk: a closed loop, with or without thinking, and the result as one line of JSON (times in microseconds).
-- Argument: mean time in ms that a connection waits before each request, exponentially distributed; 0: none.
local mean_ms = 0

function setup(thread)
  thread_number = (thread_number or 0) + 1
  thread:set("seed", thread_number)
end

function init(args)
  math.randomseed(seed)
  mean_ms = tonumber(args[1]) or 0
  if mean_ms > 0 then
    delay = function()
      return math.floor(-math.log(1 - math.random()) * mean_ms)
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%d,"p95_us":%d,"p99_us":%d,"max_us":%d}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
