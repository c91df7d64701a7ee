-- For wrk: sends the bodies of a file (one a line) in turn, and counts answers of another status or length.
-- Arguments: file, shortest and longest right answer in bytes.

local threads = {}
local requests = {}
local turn = 0
local least, most
wrong_status = 0
wrong_length = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  least, most = tonumber(args[2]), tonumber(args[3])
  local headers = { ["Content-Type"] = "application/json" }
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status, headers, body)
  if status ~= 200 then
    wrong_status = wrong_status + 1
  elseif #body < least or #body > most then
    wrong_length = wrong_length + 1
  end
end

function done(summary, latency, rates)
  local status, length = 0, 0
  for _, thread in ipairs(threads) do
    status = status + thread:get("wrong_status")
    length = length + thread:get("wrong_length")
  end
  local broken = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%.6f,"wrong_status":%d,"wrong_length":%d,"broken":%d,' ..
    '"p50_ms":%.4f,"p90_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, status, length, broken,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
