//! What happens to sessions at once. Times are microseconds, which a number of Lua holds exactly until the year 2255.

use redis::Cmd;

/// Makes room and puts a session there. Yields nil if there is no room, else the ids that had to go.
///
/// Keys: the session, its neighbours. Arguments: id, now, user, epoch, most sessions (0: any number), whether the oldest go,
/// hash, end, document, data, and the milliseconds that the session and its neighbours are kept.
pub(super) const CREATE: &str = "
local prefix = string.sub(KEYS[1], 1, -1 - #ARGV[1])
local evicted = {}
local max = tonumber(ARGV[5])
if max > 0 then
    local live = {}
    for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
        local kept = redis.call('HMGET', prefix .. id, 'user', 'epoch', 'until')
        if not kept[1] then
            redis.call('ZREM', KEYS[2], id)
        elseif kept[1] == ARGV[3] and kept[2] == ARGV[4] and tonumber(kept[3]) > tonumber(ARGV[2]) then
            live[#live + 1] = id
        end
    end
    local surplus = #live + 1 - max
    if surplus > 0 and ARGV[6] == '0' then return nil end
    for i = 1, surplus do
        redis.call('DEL', prefix .. live[i])
        redis.call('ZREM', KEYS[2], live[i])
        evicted[i] = live[i]
    end
end
redis.call('HSET', KEYS[1], 'user', ARGV[3], 'epoch', ARGV[4], 'version', 1, 'hash', ARGV[7], 'until', ARGV[8],
    'seen', ARGV[2], 'document', ARGV[9], 'data', ARGV[10])
redis.call('PEXPIRE', KEYS[1], ARGV[11])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[12]) then redis.call('PEXPIRE', KEYS[2], ARGV[12]) end
return evicted";

/// Adds a member to a set that is kept for so many milliseconds at least.
pub(super) const KEEP_UNTIL: &str = "
redis.call('SADD', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end";

/// The sessions of a user, each with its id besides. Key: the neighbours. Arguments: what stands before an id, the user.
pub(super) const LIST: &str = "
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local user = redis.call('HGET', ARGV[1] .. id, 'user')
    if not user then
        redis.call('ZREM', KEYS[1], id)
    elseif user == ARGV[2] then
        local fields = redis.call('HGETALL', ARGV[1] .. id)
        fields[#fields + 1] = 'id'
        fields[#fields + 1] = id
        found[#found + 1] = fields
    end
end
return found";

/// Moves the end. Arguments: now, epoch, the new end, the milliseconds to keep it.
pub(super) const TOUCH: &str = "
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'until', 'seen')
if kept[1] ~= ARGV[2] or tonumber(kept[2]) <= tonumber(ARGV[1]) then return 0 end
if tonumber(ARGV[1]) > tonumber(kept[3]) then
    redis.call('HSET', KEYS[1], 'seen', ARGV[1], 'until', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1";

/// Yields the next version, 0 if it was another, -1 if the session is over. Arguments: now, epoch, version, data.
pub(super) const SAVE: &str = "
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'until', 'version')
if kept[1] ~= ARGV[2] or tonumber(kept[2]) <= tonumber(ARGV[1]) then return -1 end
if kept[3] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'data', ARGV[4])
return redis.call('HINCRBY', KEYS[1], 'version', 1)";

/// Arguments: now, epoch, the former hash, the new one.
pub(super) const ROTATE: &str = "
local kept = redis.call('HMGET', KEYS[1], 'epoch', 'until', 'hash')
if kept[1] ~= ARGV[2] or tonumber(kept[2]) <= tonumber(ARGV[1]) or kept[3] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'hash', ARGV[4])
return 1";

/// Keys: the session, its neighbours. Argument: its id.
pub(super) const DELETE: &str = "
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])";

/// Removes a session that is over: how many were removed, and the end of one that is not over. Keys: the session, its
/// neighbours. Arguments: its id, now.
pub(super) const SWEEP_OVER: &str = "
local till = redis.call('HGET', KEYS[1], 'until')
if till and tonumber(till) > tonumber(ARGV[2]) then return {0, till} end
redis.call('ZREM', KEYS[2], ARGV[1])
return {redis.call('DEL', KEYS[1]), false}";

/// Removes sessions of a user of before an epoch. Key: the neighbours. Arguments: what stands before an id, the user, the
/// epoch, how many at the most.
pub(super) const SWEEP_REVOKED: &str = "
local removed = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    local kept = redis.call('HMGET', ARGV[1] .. id, 'user', 'epoch')
    if #removed < tonumber(ARGV[4]) and kept[1] == ARGV[2] and tonumber(kept[2]) < tonumber(ARGV[3]) then
        redis.call('DEL', ARGV[1] .. id)
        redis.call('ZREM', KEYS[1], id)
        removed[#removed + 1] = id
    end
end
return removed";

/// A script as it is, which saves the question whether the server knows it.
pub(super) fn eval(text: &str, keys: &[String]) -> Cmd {
    let mut script = redis::cmd("EVAL");
    script.arg(text).arg(keys.len()).arg(keys);
    script
}
