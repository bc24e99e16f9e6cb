// Package valkey holds Valkey's descriptions of its commands, cut down to what the gate's table and the tests of it are
// made from. They are under Valkey's licence, see LICENSE here, and were taken from src/commands of the release that
// [Release] names, by `go run ./internal/gate/commands/generate -from that/folder`.
package valkey

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
)

// Release is the one that the descriptions are of.
const Release = "9.1.2"

//go:embed commands.jsonl
var descriptions []byte

// Command is one command or subcommand.
type Command struct {
	Name      string     `json:"name"` // in upper case; CONTAINER|SUBCOMMAND
	Group     string     `json:"group"`
	Since     string     `json:"since"` // the first release with it, of Redis up to 7.2
	Arity     int        `json:"arity"` // of all arguments with the name; negative is "at least"
	Flags     []string   `json:"flags,omitempty"`
	Tips      []string   `json:"tips,omitempty"`
	Keys      []KeySpec  `json:"keys,omitempty"`
	Arguments []Argument `json:"arguments,omitempty"`
}

// KeySpec says where keys stand, as in Valkey's files.
type KeySpec struct {
	Flags []string `json:"flags"`
	Begin struct {
		Index *struct {
			Pos int `json:"pos"`
		} `json:"index,omitempty"`
		Keyword *struct {
			Keyword string `json:"keyword"`
			From    int    `json:"startfrom"`
		} `json:"keyword,omitempty"`
	} `json:"begin_search"`
	Find struct {
		Range *struct {
			Last  int `json:"lastkey"`
			Step  int `json:"step"`
			Limit int `json:"limit"`
		} `json:"range,omitempty"`
		KeyNum *struct {
			Index int `json:"keynumidx"`
			First int `json:"firstkey"`
			Step  int `json:"step"`
		} `json:"keynum,omitempty"`
	} `json:"find_keys"`
}

// Argument is one argument of a command, or several, as in Valkey's files.
type Argument struct {
	Name          string     `json:"name"`
	Type          string     `json:"type"` // key, string, integer, double, pattern, unix-time, pure-token, oneof, block
	Token         string     `json:"token,omitempty"`
	Optional      bool       `json:"optional,omitempty"`
	Multiple      bool       `json:"multiple,omitempty"`
	MultipleToken bool       `json:"multiple_token,omitempty"`
	Arguments     []Argument `json:"arguments,omitempty"`
}

// Commands returns all descriptions, by name.
func Commands() ([]Command, error) {
	var all []Command
	lines := bufio.NewScanner(bytes.NewReader(descriptions))
	lines.Buffer(nil, len(descriptions))
	for lines.Scan() {
		var c Command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("commands.jsonl, line %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	return all, lines.Err()
}
