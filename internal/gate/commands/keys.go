package commands

import (
	"bytes"
	"errors"
	"strconv"
)

// Errors of [Command.AppendKeys]: whole error lines without the dash, for the client. The command is not forwarded.
var (
	// ErrOtherDatabase refuses what leaves database 0: the registry's prefixes are of keys, whatever the database.
	ErrOtherDatabase = errors.New("ERR the gate serves database 0 only: ownership is by key, and another database would have its own keys of the same names")
	// ErrSecret refuses to show a password of the store to somebody who speaks with the gate's rights.
	ErrSecret = errors.New("ERR CONFIG GET of a pattern that could match a password of the store is refused; name the parameters that you need")

	// The words of the stores.
	errNotInteger  = errors.New("ERR value is not an integer or out of range")
	errTooManyKeys = errors.New("ERR Number of keys can't be greater than number of args")
	errNegative    = errors.New("ERR Number of keys can't be negative")
)

// AppendKeys appends the keys that the arguments name and returns the extended slice, like append. The arguments
// begin with the command's name. With too few of them it finds fewer keys: the store refuses such a command and
// executes nothing. An error is what the client is told; then the arguments are not to be forwarded. Of a command
// whose policy is Ask the answer is without meaning.
//
// It allocates nothing while dst has room.
func (c *Command) AppendKeys(dst []Key, args [][]byte) ([]Key, error) {
	switch c.shape {
	case noKeys:
		return dst, nil
	case oneKey:
		if s := &c.specs[0]; s.At < len(args) {
			dst = append(dst, Key{At: s.At, Writes: !s.Reads})
		}
		return dst, nil
	case sortKeys:
		return appendSort(dst, args), nil
	case geoKeys:
		return c.appendGeo(dst, args), nil
	case streams:
		return c.appendStreams(dst, args), nil
	case bitfieldKeys:
		return appendBitfield(dst, args), nil
	case config:
		return dst, checkConfig(args)
	case copyKeys:
		if err := checkCopy(args); err != nil {
			return dst, err
		}
	}
	var err error
	for i := range c.specs {
		if dst, err = c.specs[i].append(dst, args); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// append adds the keys of one specification.
func (s *Spec) append(dst []Key, args [][]byte) ([]Key, error) {
	first := s.begin(args)
	if first < 0 || first >= len(args) || s.Channel {
		return dst, nil
	}
	last, step := first, max(s.Step, 1)
	switch s.Find {
	case Range:
		switch {
		case s.Last >= 0:
			last = first + s.Last
		case s.Limit > 1:
			last = first + (len(args)-first)/s.Limit + s.Last
		default:
			last = len(args) + s.Last
		}
	case KeyCount:
		if first+s.Count >= len(args) {
			return dst, nil
		}
		n, err := keyCount(args[first+s.Count], (len(args)-first-s.First+step-1)/step)
		if err != nil {
			return dst, err
		}
		first += s.First
		last = first + (n-1)*step
	case Nowhere:
		return dst, nil
	}
	for at := first; at <= last && at < len(args); at += step {
		dst = append(dst, Key{At: at, Writes: !s.Reads})
	}
	return dst, nil
}

// begin returns the index that a specification begins with, or -1 if there is none.
func (s *Spec) begin(args [][]byte) int {
	switch s.Begin {
	case Index:
		return s.At
	case Keyword:
		from, by := s.At, 1
		if from < 0 {
			from, by = len(args)+from, -1
		}
		for at := from; at > 0 && at < len(args); at += by {
			if is(args[at], s.Word) {
				return at + 1
			}
		}
	case Unknown:
	}
	return -1
}

// keyCount reads how many keys follow, of at most room. Stores take decimal digits without a plus sign, spaces or
// leading zeros, and so does this: what it took otherwise might be another number to the store.
func keyCount(arg []byte, room int) (int, error) {
	const most = 19 // digits of the largest int64
	if len(arg) == 0 || len(arg) > most+1 {
		return 0, errNotInteger
	}
	n, err := strconv.ParseInt(string(arg), 10, 64)
	switch {
	case err != nil || arg[0] == '+' || arg[0] == '0' && len(arg) > 1 || arg[0] == '-' && arg[1] == '0':
		return 0, errNotInteger
	case n < 0:
		return 0, errNegative
	case n > int64(room):
		return 0, errTooManyKeys
	}
	return int(n), nil
}

// appendSort walks over the options of SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [STORE key] and so
// on. The store takes the last of several STORE; all are taken here. So it is with an option that is not known.
func appendSort(dst []Key, args [][]byte) []Key {
	if len(args) > 1 {
		dst = append(dst, Key{At: 1})
	}
	for at := 2; at < len(args); at++ {
		left := len(args) - at - 1
		switch arg := args[at]; {
		case is(arg, "LIMIT") && left >= 2:
			at += 2
		case is(arg, "STORE") && left >= 1:
			at++
			dst = append(dst, Key{At: at, Writes: true})
		case (is(arg, "BY") || is(arg, "GET")) && left >= 1:
			at++
		}
	}
	return dst
}

// appendGeo does the same for GEORADIUS and GEORADIUSBYMEMBER. Their key specifications tell where STORE may stand
// first, which is behind all other arguments that have a place.
func (c *Command) appendGeo(dst []Key, args [][]byte) []Key {
	if len(args) > 1 {
		dst = append(dst, Key{At: 1})
	}
	for at := c.specs[1].At; at < len(args)-1; at++ {
		switch arg := args[at]; {
		case is(arg, "COUNT"):
			at++
		case is(arg, "STORE") || is(arg, "STOREDIST"):
			at++
			dst = append(dst, Key{At: at, Writes: true})
		}
	}
	return dst
}

// appendBitfield takes the key for written unless all operations of BITFIELD key [GET encoding offset | OVERFLOW how |
// SET … | INCRBY …] … read.
func appendBitfield(dst []Key, args [][]byte) []Key {
	if len(args) < 2 {
		return dst
	}
	for at := 2; at < len(args); {
		switch arg := args[at]; {
		case is(arg, "GET"):
			at += 3
		case is(arg, "OVERFLOW"):
			at += 2
		default:
			return append(dst, Key{At: 1, Writes: true})
		}
	}
	return append(dst, Key{At: 1})
}

// appendStreams walks over the options of XREAD and XREADGROUP up to STREAMS: half of what follows are keys. The key
// specification looks for the word STREAMS from a fixed place on, where a consumer of that name may stand.
func (c *Command) appendStreams(dst []Key, args [][]byte) []Key {
	at := streamsAt(args)
	for n := (len(args) - at) / 2; n > 0; n-- {
		dst = append(dst, Key{At: at, Writes: !c.specs[0].Reads})
		at++
	}
	return dst
}

// streamsAt returns the index of the argument after STREAMS, or that after the last.
func streamsAt(args [][]byte) int {
	for at := 1; at < len(args); at++ {
		switch arg := args[at]; {
		case is(arg, "STREAMS"):
			return at + 1
		case is(arg, "BLOCK") || is(arg, "COUNT"):
			at++
		case is(arg, "GROUP"):
			at += 2
		}
	}
	return len(args)
}

// MayPark reports whether the command may wait in the store, so that others cannot use its connection meanwhile. Of
// XREAD and XREADGROUP that hangs on the option BLOCK.
func (c *Command) MayPark(args [][]byte) bool {
	if !c.Blocks || c.shape != streams {
		return c.Blocks
	}
	for at := 1; at < len(args); at++ {
		switch arg := args[at]; {
		case is(arg, "BLOCK"):
			return true
		case is(arg, "STREAMS"):
			return false
		case is(arg, "COUNT"):
			at++
		case is(arg, "GROUP"):
			at += 2
		}
	}
	return false
}

// checkCopy refuses COPY source destination DB n, but for n = 0.
func checkCopy(args [][]byte) error {
	for at := 3; at < len(args)-1; at++ {
		if is(args[at], "DB") {
			at++
			if string(args[at]) != "0" {
				return ErrOtherDatabase
			}
		}
	}
	return nil
}

// secrets are the parameters of CONFIG that hold passwords.
var secrets = [...]string{"requirepass", "masterauth", "primaryauth", "tls-key-file-pass", "tls-client-key-file-pass"}

// checkConfig refuses CONFIG GET of what could match one of the secrets. A pattern is taken to match what begins as it
// does before its first special character: that is never too little.
func checkConfig(args [][]byte) error {
	for _, pattern := range args[min(2, len(args)):] {
		special := bytes.IndexAny(pattern, `*?[\`)
		for _, secret := range secrets {
			if special < 0 && is(pattern, secret) ||
				special >= 0 && special <= len(secret) && bytes.EqualFold(pattern[:special], []byte(secret)[:special]) {
				return ErrSecret
			}
		}
	}
	return nil
}

// is compares an argument with a word without regard to case, as stores do. Only the letters A to Z have two.
func is(arg []byte, word string) bool {
	if len(arg) != len(word) {
		return false
	}
	for i := range arg {
		a, b := arg[i], word[i]
		if a != b && (a|0x20 != b|0x20 || a|0x20 < 'a' || a|0x20 > 'z') {
			return false
		}
	}
	return true
}
