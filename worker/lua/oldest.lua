-- Milliseconds since the oldest unfinished entry was added, 0 if there is none. A script so that its text stays in Redis.
-- KEYS: streams.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local oldest = now
for _, stream in ipairs(KEYS) do
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  if first then
    oldest = math.min(oldest, tonumber(string.match(first[1], '^%d+')))
  end
end
return now - oldest
