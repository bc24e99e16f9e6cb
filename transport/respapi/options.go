package respapi

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// option is one word that may follow the arguments of a command, in any case
// and any order.
type option struct {
	word string
	take func(value []byte) error // reads the argument behind the word; nil: it stands alone
	seen func()
}

// text is a word with free text behind it.
func text(word string, to *string) option {
	return option{word: word, take: func(v []byte) error {
		*to = string(v)
		return nil
	}}
}

// name is a word with one of a set of names behind it, which are in lower case.
func name(word string, to *string) option {
	return option{word: word, take: func(v []byte) error {
		*to = strings.ToLower(string(v))
		return nil
	}}
}

// node is a word with a node id behind it.
func node(word string, to *string) option {
	return option{word: word, take: func(v []byte) (err error) {
		*to, err = nodeID(word, v)
		return err
	}}
}

// identity is a word with the identity of a node's data behind it.
func identity(word string, to *string) option {
	return option{word: word, take: func(v []byte) error {
		if len(v) == 0 || len(v) > fsm.MaxRandom {
			return invalid("%s '%s' has %d bytes; it needs 1 to %d", word, shown(v), len(v), fsm.MaxRandom)
		}
		*to = string(v)
		return nil
	}}
}

// number is a word with a number behind it, from least on.
func number(word string, least uint64, to *uint64) option {
	return option{word: word, take: func(v []byte) error {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil || n < least {
			return invalid("%s '%s' is not a whole number from %d on", word, shown(v), least)
		}
		*to = n
		return nil
	}}
}

// epoch is a word with an epoch behind it: what is asked for is done only if
// the scope has it.
func epoch(to *uint64) option { return number("EPOCH", 1, to) }

// count is the word COUNT, how many records a list may have.
func count(to *int) option {
	*to = defaultCount
	return option{word: "COUNT", take: func(v []byte) error {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil || n == 0 {
			return invalid("COUNT '%s' is not a whole number from 1 on", shown(v))
		}
		if n > MaxCount {
			return &api.Error{Code: api.Limit, Detail: "COUNT " + shown(v) + " is over the limit of " + strconv.Itoa(MaxCount) + "; ask for less at once"}
		}
		*to = int(n)
		return nil
	}}
}

// raw is a word with bytes behind it.
func raw(word string, to *scope.Prefix) option {
	return option{word: word, take: func(v []byte) error {
		*to = scope.Prefix(v)
		return nil
	}}
}

// alone is a word with nothing behind it.
func alone(word string, to *bool) option {
	return option{word: word, seen: func() { *to = true }}
}

// options reads args, which are known words with what belongs behind them.
func options(args [][]byte, known ...option) error {
	given := make([]bool, len(known))
	for len(args) > 0 {
		i := find(known, args[0])
		if i < 0 {
			words := make([]string, len(known))
			for i, o := range known {
				words[i] = o.word
			}
			return invalid("'%s' is not known here; use %s", shown(args[0]), strings.Join(words, ", "))
		}
		o := known[i]
		if given[i] {
			return invalid("%s is given twice", o.word)
		}
		given[i], args = true, args[1:]
		if o.take == nil {
			o.seen()
			continue
		}
		if len(args) == 0 {
			return invalid("%s needs a value behind it", o.word)
		}
		if err := o.take(args[0]); err != nil {
			return err
		}
		args = args[1:]
	}
	return nil
}

func find(known []option, word []byte) int {
	for i, o := range known {
		if isWord(word, o.word) {
			return i
		}
	}
	return -1
}

// isWord compares in any case.
func isWord(arg []byte, word string) bool { return bytes.EqualFold(arg, []byte(word)) }

// nodeID reads a node id, of what is said for an error.
func nodeID(what string, arg []byte) (string, error) {
	id := string(arg)
	if err := scope.NodeID(id).Check(); err != nil {
		return "", invalid("%s: %v", what, err)
	}
	return id, nil
}

// joined is the rest of a command as one text: people do not quote in redis-cli.
func joined(args [][]byte) string { return string(bytes.Join(args, []byte(" "))) }
