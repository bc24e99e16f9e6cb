package program

// left are commands that programs do not have, with the reason. That of all others stands in the comparison.
var left = map[string]string{
	"SPOP":           "takes members at random, after which the two stores differ; SREM does the same by name",
	"SAVE":           "writes a file, and what it answers hangs on what else is being written",
	"BGSAVE":         "the same",
	"BGREWRITEAOF":   "the same",
	"PFSELFTEST":     "computes for seconds and reads nothing",
	"PFDEBUG":        "its replies are of 16,384 numbers",
	"CONFIG|GET":     "two stores have two ports and two folders",
	"COMMAND":        "200 KiB in an order that is random in every process",
	"COMMAND|DOCS":   "the same",
	"COMMAND|LIST":   "the same",
	"COMMAND|INFO":   "the same for subcommands",
	"MEMORY|PURGE":   "takes long",
	"FUNCTION|DUMP":  "the order of functions is random in every process",
	"CLIENT|UNBLOCK": "ids of connections are another store's; programs park and wake by keys",
	"LOLWUT":         "paints at random",
	// These change what comes back on a connection, and have steps of their own.
	"CLIENT|TRACKING": "what is invalidated comes in between replies", "CLIENT|CACHING": "of tracking",
	"SUBSCRIBE": "own steps", "PSUBSCRIBE": "own steps", "SSUBSCRIBE": "own steps",
	"UNSUBSCRIBE": "own steps", "PUNSUBSCRIBE": "own steps", "SUNSUBSCRIBE": "own steps",
	"HELLO": "own steps", "AUTH": "own steps", "RESET": "own steps", "QUIT": "own steps", "SELECT": "own steps",
	"MULTI": "own steps", "EXEC": "own steps", "DISCARD": "own steps", "WATCH": "own steps", "UNWATCH": "own steps",
}

// whole are commands that are never spoiled, with the reason.
var whole = map[string]string{
	"COPY":       "a database that is no number is another one to the gate",
	"XREADGROUP": "what follows the first STREAMS are keys to the gate, and the error is that they are in several scopes",
	"SORT":       "a pattern without a star leaves the order of a hash table", "SORT_RO": "the same",
}

// prefixes of the keys, by the group of commands that mostly meets them. All keys are in one scope.
var prefixes = map[string]string{
	"string": "d:s:", "bitmap": "d:b:", "hyperloglog": "d:p:", "hash": "d:h:", "list": "d:l:", "set": "d:t:",
	"sorted_set": "d:z:", "geo": "d:g:", "stream": "d:x:",
}

// groups in a fixed order.
var groups = []string{"string", "bitmap", "hyperloglog", "hash", "list", "set", "sorted_set", "geo", "stream"}

// keysOfGroup is how many keys each group has.
const keysOfGroup = 5

// scripts use only the keys that are declared, so that they can run anywhere.
var scripts = []string{
	"return redis.call('set', KEYS[1], ARGV[1] or 'x')",
	"return {redis.call('type', KEYS[1]), KEYS[2], ARGV[1]}",
	"return redis.pcall('incr', KEYS[1])",
	"return redis.call('lpush', KEYS[1], unpack(ARGV))",
	"return {1, 2.5, 'three', false, {ok = 'fine'}}",
	"return redis.error_reply('ERR of a script')",
	"if #KEYS > 1 then return redis.call('rename', KEYS[1], KEYS[2]) end return #ARGV",
	"redis.setresp(3); return redis.call('hgetall', KEYS[1])",
	"this is no script",
}

// functions is one library, loaded again and again.
const functions = `#!lua name=differ
redis.register_function('put', function(keys, args) return redis.call('set', keys[1], args[1] or 'x') end)
redis.register_function{function_name='look', callback=function(keys, args) return redis.call('type', keys[1]) end, flags={'no-writes'}}
`
