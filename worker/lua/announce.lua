-- Note what a worker says of itself, behind the time, and forget those that have said nothing for long.
-- KEYS: the hash of workers. ARGV: worker, what it says, milliseconds of silence after which one is forgotten.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d ', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local said = redis.call('HGETALL', KEYS[1])
for i = 1, #said, 2 do
  if now - (tonumber(string.match(said[i + 1], '^%d+')) or 0) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], said[i])
  end
end
return redis.status_reply('OK')
