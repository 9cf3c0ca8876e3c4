-- Count the unfinished documents of a stream, and those among them whose worker renews its lease.
-- KEYS: stream. ARGV: group, lease in milliseconds.
-- Returns {unfinished, held}.
local unfinished = redis.call('XLEN', KEYS[1])
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) then
    -- No worker has ever been here.
    return {unfinished, 0}
  end
  return pending
end
local left_behind = 0
if pending[1] > 0 then
  left_behind = #redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', pending[1])
end
return {unfinished, pending[1] - left_behind}
