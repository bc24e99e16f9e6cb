// Package commands says of every command of Redis and Valkey what the gate does with it, which keys it names, and
// which of them it writes. The table is made from Valkey's own descriptions (see generate), and is checked against what
// an upstream says of itself before it is used: [Check].
package commands

//go:generate go run ./generate -root ../../..

// Policy is what the gate does with a command.
type Policy uint8

// The zero value refuses, so that a command that nobody thought of is not forwarded.
const (
	// Refuse answers with Why and forwards nothing.
	Refuse Policy = iota
	// Pass forwards: the command reads, or touches no key.
	Pass
	// Write forwards if this node owns every key that [Command.AppendKeys] says is written. There may be none: SORT
	// without STORE only reads, and FUNCTION LOAD writes no key.
	Write
	// Ask is Write of which only the upstream knows the keys: COMMAND GETKEYSANDFLAGS is asked, and a key is written
	// unless [ReadsKey] says that it is not. No command has this policy in the table; Check gives it to those that the
	// upstream describes otherwise.
	Ask
	// Transaction is MULTI, EXEC, DISCARD, WATCH and UNWATCH: see Op.
	Transaction
	// Subscribe makes a connection one that messages come in on, or ends that.
	Subscribe
	// Session reads or changes the state of a connection. With Private it is forwarded on a private upstream connection,
	// else the gate answers itself: see Op.
	Session
)

// Op names a command that the gate handles by itself, or in a way of its own.
type Op uint8

// All but Wait are of the policies Transaction and Session.
const (
	None Op = iota
	Multi
	Exec
	Discard
	Watch
	Unwatch
	// Hello is HELLO [version [AUTH user password] [SETNAME name]].
	Hello
	// Auth is AUTH [user] password.
	Auth
	// Reset forgets all state of the connection; the gate drops the private connection, since RESET would take the name
	// by which a successor finds it.
	Reset
	Quit
	// Select is SELECT index; the gate answers itself and refuses other databases than 0 with [OtherDatabase].
	Select
	// SetName and GetName are answered by the gate: the name of an upstream connection is the gate's.
	SetName
	GetName
	// SetInfo is CLIENT SETINFO, which client libraries send first of all: checked, and not kept.
	SetInfo
	// Wait is WAIT and WAITAOF, which wait until the writes of *their connection* are elsewhere. A store takes for these
	// all that was executed before the last command of the connection. So the gate sends a PING first on a
	// private connection: all that was acknowledged to the client is before that.
	Wait
)

// Command is one row of the table. It is not changed once it is there.
type Command struct {
	// Name is in upper case; of a subcommand, CONTAINER|SUBCOMMAND.
	Name   string
	Policy Policy
	Op     Op
	// Why is the text of a refusal, a whole error line without the dash: "ERR …". Other policies have none.
	Why string
	// Note tells users what is particular about a command that is not refused. It stands in the documentation.
	Note string
	// Arity counts the arguments, the name's words too; negative is "at least".
	Arity int
	// Blocks says that the command may park the connection: see [Command.MayPark].
	Blocks bool
	// Private says that the command needs an upstream connection that no other client shares, from here on.
	Private bool
	// Missing says that the upstream has described its commands, and this is none of them.
	Missing bool

	shape shape
	specs []Spec
	subs  *index
}

// Key is one key of a command.
type Key struct {
	At     int  // its index in the arguments
	Writes bool // the command may change it
}

// shape is how the keys of a command are found.
type shape uint8

const (
	noKeys       shape = iota
	oneKey             // at the index of the only spec: the usual case
	bySpecs            // by all specs
	sortKeys           // SORT: a walk over its options, since STORE may stand anywhere
	geoKeys            // GEORADIUS and GEORADIUSBYMEMBER: the same
	streams            // XREAD and XREADGROUP: a consumer may be called STREAMS
	bitfieldKeys       // BITFIELD: a read if all its operations are
	copyKeys           // COPY: by its specs, but DB is refused
	config             // CONFIG GET: no keys, but names of secrets are refused
)

// Spec says where some keys of a command stand, as the key specifications of COMMAND do.
type Spec struct {
	Begin Begin
	At    int    // Index: the argument; Keyword: where to look for it first, from the end if negative
	Word  string // Keyword: after which the keys begin, in upper case

	Find  Find
	Last  int // Range: the last key after the first, or from the end of the arguments if negative
	Step  int // from one key to the next; of Range and KeyCount
	Limit int // Range with a negative Last: keys are in the first 1/Limit of what follows; 0 and 1 are all
	Count int // KeyCount: where the number of keys stands, after Begin
	First int // KeyCount: where the first key stands, after Begin

	Reads      bool // the keys are only read
	Channel    bool // these are channels, not keys
	Incomplete bool // the command may have keys that the specification does not tell
}

// Begin is how the first argument of a [Spec] is found.
type Begin uint8

// The ways to begin.
const (
	Unknown Begin = iota
	Index
	Keyword
)

// Find is how keys are found from there.
type Find uint8

// The ways to find keys.
const (
	Nowhere Find = iota // nobody can say where
	Range
	KeyCount
)
