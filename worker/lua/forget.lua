-- Delete the names of consumers that have nothing pending: the one named, and those silent for long. Redis would drop
-- what is pending with a name, so looking and deleting must be one step.
-- KEYS: streams. ARGV: group, consumer or '', milliseconds of silence.
for _, stream in ipairs(KEYS) do
  for _, pairs_of in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
    local consumer = {}
    for i = 1, #pairs_of, 2 do
      consumer[pairs_of[i]] = pairs_of[i + 1]
    end
    local gone = consumer.name == ARGV[2] or consumer.idle > tonumber(ARGV[3])
    if gone and consumer.pending == 0 then
      -- Redis 6.2 refuses it when its memory is full; a name may stay, what frees memory may not.
      redis.pcall('XGROUP', 'DELCONSUMER', stream, ARGV[1], consumer.name)
    end
  end
end
return redis.status_reply('OK')
