-- Hand entries back that this consumer still holds: with an idle time that everybody takes for abandoned, and with the
-- count of deliveries as it was before this one.
-- KEYS: streams. ARGV: group, consumer, idle milliseconds, then stream number, entry id and deliveries of each entry.
for i = 4, #ARGV, 3 do
  local stream, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if #redis.call('XPENDING', stream, ARGV[1], id, id, 1, ARGV[2]) == 1 then
    redis.call(
      'XCLAIM', stream, ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'RETRYCOUNT', ARGV[i + 2], 'JUSTID'
    )
  end
end
return redis.status_reply('OK')
