package resp

import (
	"fmt"
	"strconv"
)

// Limits bound what one connection can make a Reader hold. All are at least 1.
type Limits struct {
	Args    int // arguments per command
	ArgLen  int // bytes of one argument
	Command int // bytes of all arguments of a command together
	Inline  int // bytes of an inline line before its newline
}

// Defaults. A key is up to 64 KiB, so an argument is; no command has 64 arguments. Each of 4,096 connections can hold
// a whole command, so a command is bounded by far less than 64 arguments of 64 KiB: 512 MiB in all and not 16 GiB.
const (
	defaultArgs    = 64
	defaultArgLen  = 64 << 10
	defaultCommand = 128 << 10
	defaultInline  = 64 << 10
)

// DefaultLimits returns the limits for an authenticated connection: 64 arguments of up to 64 KiB, 128 KiB together,
// inline lines of up to 64 KiB.
func DefaultLimits() Limits {
	return Limits{Args: defaultArgs, ArgLen: defaultArgLen, Command: defaultCommand, Inline: defaultInline}
}

// StrangerLimits returns the limits for a connection of nobody known: 10 arguments of up to 16 KiB, 32 KiB together.
// HELLO with a token and a name has 7.
func StrangerLimits() Limits {
	return Limits{Args: 10, ArgLen: 16 << 10, Command: 32 << 10, Inline: 16 << 10}
}

const (
	// The longest frames around data: type, 19 digits (the largest int64), CRLF; a bulk string has a second CRLF.
	arrayFrame = 1 + 19 + 2
	bulkFrame  = arrayFrame + 2
)

// most is the number of bytes that a command within the limits can have on the wire.
func (l Limits) most() int {
	return max(arrayFrame+l.Args*bulkFrame+l.Command, l.Inline+1)
}

// ProtocolError says that the bytes are not RESP. The connection is out of step: answer and close it.
type ProtocolError struct {
	Text string // what is wrong, without "Protocol error: "; one line
}

// Error returns the text in Redis's form, "Protocol error: …".
func (e *ProtocolError) Error() string { return "Protocol error: " + e.Text }

// What a LimitError can be about: the field of Limits that it is over.
const (
	OverArgs    = "args"
	OverArgLen  = "arg_len"
	OverCommand = "command"
	OverInline  = "inline"
)

// LimitError says that a command is over a limit. Nothing of it was returned, and its rest cannot be skipped cheaply:
// answer and close the connection.
type LimitError struct {
	What string // OverArgs, OverArgLen, OverCommand or OverInline
	Got  int64  // what was announced or, of an inline line, counted until it was too much
	Max  int64  // the limit
}

// Error returns the text in Redis's form, "Protocol error: …", with the limit and what to do.
func (e *LimitError) Error() string {
	switch e.What {
	case OverArgs:
		return fmt.Sprintf("Protocol error: invalid multibulk length: %d arguments, a command may have %d: send fewer", e.Got, e.Max)
	case OverArgLen:
		return fmt.Sprintf("Protocol error: invalid bulk length: %d bytes, an argument may have %d: send a shorter one", e.Got, e.Max)
	case OverCommand:
		return fmt.Sprintf("Protocol error: invalid bulk length: %d bytes so far, the arguments of a command may have %d together: send less in one command", e.Got, e.Max)
	default:
		return fmt.Sprintf("Protocol error: too big inline request: no newline within %d bytes: send a shorter line, or an array of bulk strings", e.Max)
	}
}

// Lengths of arrays and of bulk strings have the same form.
const lengthForm = ": want digits without sign or leading zero, at most 9223372036854775807, and CRLF"

func errArrayLength() error {
	return &ProtocolError{"invalid multibulk length" + lengthForm}
}

func errBulkLength() error {
	return &ProtocolError{"invalid bulk length" + lengthForm}
}

// errExpected says what should stand where got does.
func errExpected(want string, got byte) error {
	quoted := strconv.Quote(string([]byte{got}))
	return &ProtocolError{"expected " + want + ", got '" + quoted[1:len(quoted)-1] + "'"}
}
