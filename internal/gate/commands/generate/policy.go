package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
)

// decision is what somebody decided about a command. What is not decided here follows from its flags: WRITE is
// written by those who own the keys, READONLY passes.
type decision struct {
	policy  string // the name of the constant; "" is as the flags say
	op      string
	why     string // of a refusal, without ERR
	note    string
	private bool
	shape   string // another way to find its keys than by its specifications
	writes  bool   // its keys count as written, whatever its specifications say
}

func refuse(why string) decision       { return decision{policy: "Refuse", why: why} }
func pass(note string) decision        { return decision{policy: "Pass", note: note} }
func note(text string) decision        { return decision{note: text} }
func session(op, note string) decision { return decision{policy: "Session", op: op, note: note} }
func private(note string) decision     { return decision{policy: "Session", private: true, note: note} }
func subscribe() decision              { return decision{policy: "Subscribe", private: true} }
func transaction(op, note string) decision {
	return decision{policy: "Transaction", op: op, note: note}
}

const (
	flush    = "would delete the keys of every scope, also of those that others own; delete your own keys by name, as by SCAN and UNLINK"
	cluster  = "is for a store that is a cluster; behind a gate there is one server, and the registry says who owns which keys"
	replica  = "would put another server's keys in the place of the store's, past their owners; ask the store itself"
	stream   = "begins a stream of replication, which does not go through a gate; connect to the store itself"
	database = "would leave database 0, the only one that the gate serves: ownership is by key, and another database would have its own keys of the same names"
	operator = "is for the store's operator; a gate would do it with its own rights: ask the store itself"
	module   = "could bring commands of which nobody knows what they write; ask the store itself, and start the gate again"
	paused   = "would stop the gate's own connections too, and with them a move; ask the store itself"

	everything = "tells of all keys that the store has, also the gate's own and those of a slice that comes in"
	undeclared = "the keys declared must all be owned; what a script writes besides, nobody can see"
	library    = "libraries of functions belong to a store, not to a scope: no move takes them along"
	scripts    = "scripts are remembered by a store, not by a scope: no move takes them along"
	own        = "of the private upstream connection that the client has from then on"
)

// decisions by name; NAME|* is for all subcommands that have none of their own.
var decisions = map[string]decision{
	"FLUSHALL": refuse(flush), "FLUSHDB": refuse(flush),
	"SWAPDB": refuse(database), "MOVE": refuse(database),
	"SELECT":  session("Select", "0 only"),
	"MIGRATE": refuse("would take keys to another server past the registry; move their scope: scope-registry move start"),
	"COPY":    {shape: "copyKeys", note: "DB other than 0 is refused; the source is only read"},

	"REPLICAOF": refuse(replica), "SLAVEOF": refuse(replica), "FAILOVER": refuse(replica),
	"PSYNC": refuse(stream), "SYNC": refuse(stream), "REPLCONF": refuse(stream),
	"MONITOR":        refuse("shows what all clients send and never ends; ask the store itself"),
	"DEBUG":          refuse("can change data past its owner; ask the store itself"),
	"SHUTDOWN":       refuse(operator),
	"RESTORE-ASKING": refuse(cluster), "ASKING": refuse(cluster), "READONLY": refuse(cluster), "READWRITE": refuse(cluster),
	"CLUSTER|*": refuse(cluster), "CLUSTERSCAN": refuse(cluster),
	"MODULE|LOAD": refuse(module), "MODULE|LOADEX": refuse(module), "MODULE|UNLOAD": refuse(module),
	"MODULE|LIST": pass(""),

	"ACL|*": refuse(operator), "ACL|CAT": pass(""), "ACL|GENPASS": pass(""), "ACL|WHOAMI": pass(""),
	"CONFIG|GET": {policy: "Pass", shape: "config", note: "names and patterns that could show a password are refused"},
	"CONFIG|SET": refuse(operator), "CONFIG|REWRITE": refuse(operator), "CONFIG|RESETSTAT": pass(""),
	"SAVE": pass(""), "BGSAVE": pass(""), "BGREWRITEAOF": pass(""), "LASTSAVE": pass(""),
	"LATENCY|*": pass(""), "SLOWLOG|*": pass(""), "COMMANDLOG|*": pass(""), "MEMORY|*": pass(""),
	"COMMAND|*": pass("as the store has it: what the gate refuses is there too"),
	"COMMAND":   pass("as the store has it: what the gate refuses is there too"),
	"INFO":      pass("of the store"), "ROLE": pass("of the store"), "TIME": pass(""), "ECHO": pass(""), "PING": pass(""), "PFSELFTEST": pass(""),

	"CLIENT|REPLY":    refuse("would leave the gate without the replies by which it knows what was executed"),
	"CLIENT|KILL":     refuse("could end connections that the gate shares between clients, or a move's; ask the store itself"),
	"CLIENT|PAUSE":    refuse(paused),
	"CLIENT|UNPAUSE":  refuse(paused),
	"CLIENT|SETNAME":  session("SetName", "kept by the gate: the name of an upstream connection is the gate's"),
	"CLIENT|GETNAME":  session("GetName", ""),
	"CLIENT|SETINFO":  session("SetInfo", "checked, and not kept"),
	"CLIENT|ID":       private(own),
	"CLIENT|INFO":     private(own),
	"CLIENT|LIST":     pass("the gate's connections have its name"),
	"CLIENT|UNBLOCK":  pass("ids are those of upstream connections, as CLIENT ID tells them"),
	"CLIENT|TRACKING": private(own), "CLIENT|TRACKINGINFO": private(own), "CLIENT|CACHING": private(own), "CLIENT|GETREDIR": private(own),
	"CLIENT|NO-EVICT": private(own), "CLIENT|NO-TOUCH": private(own), "CLIENT|CAPA": private(own), "CLIENT|IMPORT-SOURCE": private(own),
	"HELLO": session("Hello", ""), "AUTH": session("Auth", ""), "RESET": session("Reset", ""), "QUIT": session("Quit", ""),

	"MULTI":   {policy: "Transaction", op: "Multi", private: true, note: "all keys written must be in one scope"},
	"EXEC":    transaction("Exec", "ownership is checked again"),
	"DISCARD": transaction("Discard", ""),
	"WATCH":   {policy: "Transaction", op: "Watch", private: true},
	"UNWATCH": transaction("Unwatch", ""),

	"SUBSCRIBE": subscribe(), "PSUBSCRIBE": subscribe(), "SSUBSCRIBE": subscribe(),
	"UNSUBSCRIBE": subscribe(), "PUNSUBSCRIBE": subscribe(), "SUNSUBSCRIBE": subscribe(),
	"PUBLISH":  pass("channels belong to no scope; each store has its own"),
	"SPUBLISH": pass("channels belong to no scope; each store has its own"), "PUBSUB|*": pass(""),

	"EVAL": {policy: "Write", note: undeclared}, "EVALSHA": {policy: "Write", note: undeclared}, "FCALL": {policy: "Write", note: undeclared},
	"EVAL_RO": pass(""), "EVALSHA_RO": pass(""), "FCALL_RO": pass(""),
	"SCRIPT|LOAD": pass(scripts), "SCRIPT|FLUSH": pass(scripts), "SCRIPT|EXISTS": pass(""), "SCRIPT|KILL": pass(""), "SCRIPT|SHOW": pass(""),
	"SCRIPT|DEBUG":  refuse("makes a connection one that steps through a script; ask the store itself"),
	"FUNCTION|LOAD": note(library), "FUNCTION|DELETE": note(library), "FUNCTION|FLUSH": note(library), "FUNCTION|RESTORE": note(library),
	"FUNCTION|*": pass(""),

	"WAIT":    {policy: "Pass", op: "Wait", private: true, note: "of all that was acknowledged to the client before"},
	"WAITAOF": {policy: "Pass", op: "Wait", private: true, note: "of all that was acknowledged to the client before"},

	"SCAN": note(everything), "KEYS": note(everything), "DBSIZE": note(everything), "RANDOMKEY": note(everything),
	"SORT":              {shape: "sortKeys", note: "a write with STORE; BY and GET read keys that nobody checks"},
	"SORT_RO":           note("BY and GET read keys that nobody checks"),
	"GEORADIUS":         {shape: "geoKeys", note: "a write with STORE and STOREDIST"},
	"GEORADIUSBYMEMBER": {shape: "geoKeys", note: "a write with STORE and STOREDIST"},
	"BITFIELD":          {shape: "bitfieldKeys", note: "a read if all its operations are GET"},
	"XREAD":             {shape: "streams"},
	"XREADGROUP":        {shape: "streams", writes: true, note: "always a write"},
	"PFCOUNT":           note("a read, though the store keeps the count that it found beside the value"),
}

// decide returns the decision about a command, or an error if nothing says what to do with it.
func decide(c valkey.Command, container bool) (decision, error) {
	d, ok := decisions[c.Name]
	outer, sub, isSub := strings.Cut(c.Name, "|")
	if !ok && isSub {
		d, ok = decisions[outer+"|*"]
		if sub == "HELP" {
			d, ok = pass(""), true
		}
	}
	switch {
	case ok && d.policy != "":
	case container:
		d.policy = "Pass" // without a subcommand: the store says that there must be one
	case slices.Contains(c.Flags, "WRITE"):
		d.policy = "Write"
	case slices.Contains(c.Flags, "READONLY"):
		d.policy = "Pass"
	default:
		return d, fmt.Errorf("%s is marked neither WRITE nor READONLY: decide in policy.go what the gate does with it", c.Name)
	}
	return d, nil
}
