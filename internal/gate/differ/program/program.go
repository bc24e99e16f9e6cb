// Package program makes random programs of commands of a store: from Valkey's descriptions of their arguments, over all
// types, pipelined, in transactions, and parked. What a program does hangs on its seed alone.
package program

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
)

// Command is one command with all its arguments. Name is in upper case, of a subcommand CONTAINER|SUBCOMMAND.
type Command struct {
	Name string
	Args []string
}

// Step is what happens next: a connection sends commands at once and reads all replies.
type Step struct {
	Conn     int
	Commands []Command
	// Inline sends them as lines instead of arrays; they have no argument that a line could not hold.
	Inline bool
	// Chop sends them in pieces of so many bytes; 0 is at once.
	Chop int
	// Wake is sent by the connection Other once the last of the commands is parked in the store, or has been answered.
	Wake  []Command
	Other int
	// After is sent by the first connection when all that was answered.
	After []Command
	// Listens says that messages come in on the first connection, as many as come before the reply to a PING.
	Listens bool
}

// Generator makes one program, step by step.
type Generator struct {
	r      *rand.Rand
	pass   func(name string) bool
	queue  func(name string) bool
	all    []valkey.Command
	byName map[string]*valkey.Command
	conns  int
	stream int // of the ids that streams got
}

// New returns a generator for so many connections. Only commands that pass are used, and within MULTI only those of them
// that may be queued: what a gate refuses is not to be compared.
func New(seed uint64, conns int, pass, queue func(name string) bool) (*Generator, error) {
	list, err := valkey.Commands()
	if err != nil {
		return nil, err
	}
	g := &Generator{r: rand.New(rand.NewPCG(seed, 0)), conns: conns, pass: pass, queue: queue, byName: map[string]*valkey.Command{}}
	for i := range list {
		c := &list[i]
		g.byName[c.Name] = c
		if _, no := left[c.Name]; no || !pass(c.Name) || isContainer(list, c.Name) {
			continue
		}
		// Commands of data, and scripts, come up ten times as often as all others.
		times := 1
		if _, data := prefixes[c.Group]; data || c.Group == "generic" || c.Group == "scripting" {
			times = 10
		}
		for range times {
			g.all = append(g.all, *c)
		}
	}
	return g, nil
}

func isContainer(list []valkey.Command, name string) bool {
	return slices.ContainsFunc(list, func(c valkey.Command) bool { return strings.HasPrefix(c.Name, name+"|") })
}

// Keys are all that programs ever write.
func Keys() []string {
	var all []string
	for _, group := range groups {
		for i := range keysOfGroup {
			all = append(all, prefixes[group]+strconv.Itoa(i))
		}
	}
	return append(all, big...)
}

// big are keys of large values, which only few commands meet: some take time by the product of two lengths.
var big = []string{"d:big:0", "d:big:1"}

// Random returns a command with random arguments, of which few are made so that the store refuses them.
func (g *Generator) Random() Command {
	return g.Of(&g.all[g.r.IntN(len(g.all))])
}

// Of returns the command with random arguments.
func (g *Generator) Of(c *valkey.Command) Command {
	l := &line{args: strings.Split(c.Name, "|"), count: -1}
	for i := range c.Arguments {
		g.argument(l, c, &c.Arguments[i])
	}
	if l.count >= 0 {
		l.args[l.count] = strconv.Itoa(l.keys)
	}
	g.spoil(l)
	if g.chance(0.2) {
		l.args[0] = strings.ToLower(l.args[0])
	}
	return Command{Name: c.Name, Args: l.args}
}

// line is a command that is being made.
type line struct {
	args  []string
	count int // where the number of keys stands; -1 is nowhere
	keys  int // keys after it
}

func (g *Generator) argument(l *line, c *valkey.Command, a *valkey.Argument) {
	if a.Optional && !g.chance(0.35) && !(a.Token == "COUNT" && strings.HasSuffix(c.Name, "SCAN")) {
		return
	}
	if a.Token == "BLOCK" && g.chance(0.9) {
		return
	}
	if a.Token == "ALPHA" && slices.Contains(l.args, "BY") {
		return // members of the same weight, as all without one, are left in the order of a hash table
	}
	times := 1
	if a.Multiple {
		times = 1 + g.r.IntN(3)
	}
	for i := range times {
		if a.Token == "STREAMS" {
			g.streams(l, c)
			return
		}
		if a.Token != "" && (i == 0 || a.MultipleToken || a.Type == "pure-token") {
			l.args = append(l.args, a.Token)
		}
		switch a.Type {
		case "pure-token":
			return
		case "key":
			l.args = append(l.args, g.key(c.Group))
			if l.count >= 0 {
				l.keys++
			}
		case "block":
			for j := range a.Arguments {
				g.argument(l, c, &a.Arguments[j])
			}
		case "oneof":
			choice := &a.Arguments[g.r.IntN(len(a.Arguments))]
			for choice.Token == "*" { // an id of the store's own choice is the time
				choice = &a.Arguments[g.r.IntN(len(a.Arguments))]
			}
			g.argument(l, c, choice)
		default:
			if a.Name == "numkeys" {
				l.count = len(l.args)
			}
			l.args = append(l.args, g.valueOf(c, a))
		}
	}
}

// streams adds STREAMS with as many ids as keys: the first half of what follows are keys, and all must be in one scope.
func (g *Generator) streams(l *line, c *valkey.Command) {
	n := 1 + g.r.IntN(3)
	l.args = append(l.args, "STREAMS")
	for range n {
		l.args = append(l.args, g.key(c.Group))
	}
	for range n {
		l.args = append(l.args, g.streamID(c))
	}
}

// spoil makes one of forty commands wrong: the last argument is missing, or one is another than was meant. The number of
// keys stays as it is, of a wrong one a gate says so itself; and all keys stay in one scope.
func (g *Generator) spoil(l *line) {
	if _, whole := whole[strings.ToUpper(l.args[0])]; whole || l.count >= 0 || !g.chance(0.025) || len(l.args) < 2 {
		return
	}
	last := len(l.args) - 1
	if g.chance(0.4) {
		l.args = l.args[:last]
		return
	}
	l.args[1+g.r.IntN(last)] = g.key(oneOf(g, groups...))
}
