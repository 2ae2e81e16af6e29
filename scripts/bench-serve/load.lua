-- The requests that wrk sends, and its figures as one line after its own report.

local body_bytes = 100

wrk.method = "POST"
wrk.body = string.rep("\7", body_bytes)

-- figures: requests, microseconds that they took, p50 and p99 in microseconds, errors of sockets, answers of 400 and above.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("figures %d %d %d %d %d %d\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
