package program

import (
	"crypto/sha1"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
)

// words are values of strings, fields and members. Up to 64 bytes: with longer ones a hash changes to a form whose
// order is random in every process.
var words = []string{"0", "1", "2", "7", "10", "-3", "42", "a", "b", "c", "foo", "hello world", "", "3.5", "1e3",
	"\x00\xff\r\n$5\r\n", "ключ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[:60]}

func (g *Generator) word() string          { return words[g.r.IntN(len(words))] }
func (g *Generator) chance(p float64) bool { return g.r.Float64() < p }
func (g *Generator) number(from, to int) string {
	return strconv.Itoa(from + g.r.IntN(to-from+1))
}

func oneOf[T any](g *Generator, list ...T) T { return list[g.r.IntN(len(list))] }

// key mostly returns a key of the type that the command is for.
func (g *Generator) key(group string) string {
	prefix, ok := prefixes[group]
	if !ok || g.chance(0.08) {
		prefix = prefixes[groups[g.r.IntN(len(groups))]]
	}
	return prefix + strconv.Itoa(g.r.IntN(keysOfGroup))
}

// valueOf returns a value of a type of Valkey's descriptions other than key, oneof and block.
func (g *Generator) valueOf(c *valkey.Command, a *valkey.Argument) string {
	if value, ok := g.named(c, a); ok {
		return value
	}
	switch a.Type {
	case "integer":
		return oneOf(g, "0", "1", "2", "3", "5", "-1", "-2", "10", "100")
	case "double":
		return oneOf(g, "0", "1", "1.5", "-2.25", "3", "10", "100", "inf", "-inf")
	case "unix-time":
		return oneOf(g, "4000000000", "4000000001", "1")
	case "pattern":
		if c.Name == "SORT" || c.Name == "SORT_RO" {
			// One without a star leaves a set in the order that it has, which is random in every process.
			return oneOf(g, "d:s:*", "*", "d:h:*->a", "d:*")
		}
		return oneOf(g, "*", "d:*", "d:s:?", "a*", "[a-c]", "*o*", `\*`)
	}
	if c.Group == "set" && g.chance(0.6) {
		return g.number(0, 30)
	}
	return g.word()
}

// named returns a value for an argument whose name says more than its type: what must be in range to be more than an
// error, and times, which are so far away that none of them comes about while a program runs.
func (g *Generator) named(c *valkey.Command, a *valkey.Argument) (string, bool) {
	name := strings.ToLower(a.Name)
	switch {
	case a.Type == "unix-time" && c.Name == "SET":
		// A time that has passed would leave a key that DBSIZE counts until the store comes by.
		return oneOf(g, "4000000000000", "4000000000001"), true
	case a.Type == "unix-time" && (strings.Contains(name, "milli") || c.Name == "PEXPIREAT" || c.Name == "XCLAIM"):
		return oneOf(g, "4000000000000", "4000000000001", "1"), true
	case name == "milliseconds" && a.Token == "BLOCK":
		return "1", true
	case name == "seconds":
		return oneOf(g, g.number(5000, 100000), g.number(5000, 100000), "0", "-1"), true
	case name == "milliseconds" || name == "ttl":
		return oneOf(g, g.number(5000000, 100000000), g.number(5000000, 100000000), "0"), true
	case name == "numreplicas" && g.chance(0.95):
		return oneOf(g, "0", "-1"), true // of others the store sees only ten times a second that their time is over
	case name == "timeout" && c.Name == "WAIT":
		return "1", true
	case name == "timeout":
		return oneOf(g, "0.001", "0.002", "-1", "x"), true
	case name == "min-idle-time":
		return "0", true
	case name == "longitude":
		return oneOf(g, "13.361389", "15.087269", "2.3", "-70", "181"), true
	case name == "latitude":
		return oneOf(g, "38.115556", "37.502669", "48.8", "10", "86"), true
	case name == "destination-db":
		return "0", true // of others a gate says that it does not serve them
	case name == "cursor":
		return "0", true
	case name == "count" && strings.HasSuffix(c.Name, "SCAN"):
		return "1000", true
	}
	return g.namedText(c, name)
}

func (g *Generator) namedText(c *valkey.Command, name string) (string, bool) {
	switch {
	case name == "offset" && c.Group == "bitmap":
		return g.number(0, 300), true
	case name == "offset" && c.Name == "SETRANGE":
		return g.number(0, 40), true
	case name == "encoding":
		return oneOf(g, "u8", "i5", "u63", "i64", "u65"), true
	case name == "value" && (c.Name == "SETBIT" || name == "bit"):
		return oneOf(g, "0", "1"), true
	case name == "min" || name == "max":
		return oneOf(g, "-", "+", "[a", "(c", "-inf", "+inf", "0", "(1", "2"), true
	case c.Group == "stream" && strings.Contains(name, "id"):
		return g.streamID(c), true
	case c.Group == "stream" && (name == "start" || name == "end"):
		return oneOf(g, "-", "+", "0-0", g.number(1, 200), "("+g.number(1, 200)), true
	case name == "group":
		return oneOf(g, "g1", "g2"), true
	case name == "consumer":
		return oneOf(g, "c1", "c2", "STREAMS"), true
	case name == "script":
		return scripts[g.r.IntN(len(scripts))], true
	case name == "sha1":
		sum := sha1.Sum([]byte(scripts[g.r.IntN(len(scripts))])) // the name that stores give a script
		return hex.EncodeToString(sum[:]), true
	case name == "function":
		return oneOf(g, "put", "look", "none"), true
	case name == "function-code":
		return functions, true
	case name == "library-name":
		return "differ", true
	case name == "channel" || name == "shardchannel":
		return oneOf(g, "ch1", "ch2"), true
	case name == "serialized-value":
		return oneOf(g, "", "\x00\x01a\x0a\x00garbage", "x"), true
	}
	return "", false
}

// streamID mostly returns an id above those before, as XADD takes it.
func (g *Generator) streamID(c *valkey.Command) string {
	switch {
	case c.Name == "XREADGROUP" && g.chance(0.7):
		return ">"
	case c.Name == "XREAD" && g.chance(0.1):
		return "$"
	case c.Name == "XADD" && g.chance(0.8):
		g.stream++
		return strconv.Itoa(g.stream/3) + oneOf(g, "-*", "-"+strconv.Itoa(g.stream))
	}
	return oneOf(g, "0", "0-0", "1-1", g.number(1, 1+g.stream), g.number(1, 1+g.stream)+"-1")
}
