package program

import (
	"slices"
	"strings"
)

// Next returns the next step. All its commands pass.
func (g *Generator) Next() Step {
	for {
		s := g.step()
		all := slices.Concat(s.Commands, s.Wake, s.After)
		if !slices.ContainsFunc(all, func(c Command) bool { return !g.pass(c.Name) }) {
			return s
		}
	}
}

func (g *Generator) step() Step {
	s := Step{Conn: g.r.IntN(g.conns)}
	switch p := g.r.Float64(); {
	case p < 0.10:
		s.Commands = g.transaction()
	case p < 0.13:
		g.watched(&s)
	case p < 0.18:
		g.parked(&s)
	case p < 0.21:
		s.Commands = g.session()
	case p < 0.24:
		g.published(&s)
	case p < 0.27:
		s.Commands = g.large()
	case p < 0.30:
		s.Inline = true
		s.Commands = g.inline()
	default:
		s.Commands = g.several(32)
	}
	if g.chance(0.05) {
		s.Chop = 1 + g.r.IntN(40)
	}
	return s
}

// Prepare returns what empties all keys, for the begin of a program.
func Prepare() Step {
	return Step{Commands: []Command{command(append([]string{"DEL"}, Keys()...)...)}}
}

// command makes one of its words; the name has no subcommand.
func command(words ...string) Command { return Command{Name: words[0], Args: words} }

func sub(words ...string) Command { return Command{Name: words[0] + "|" + words[1], Args: words} }

func (g *Generator) several(most int) []Command {
	list := make([]Command, 1+g.r.IntN(most))
	for i := range list {
		list[i] = g.Random()
	}
	return list
}

// calm are some commands that never wait. The harness asks the store whether a connection waits, and must not take
// one of these for the one that it means.
func (g *Generator) calm(most int) []Command {
	return slices.DeleteFunc(g.several(most), func(c Command) bool { return slices.Contains(g.byName[c.Name].Flags, "BLOCKING") })
}

// transaction is MULTI … EXEC, sometimes left, nested, spoiled or without a beginning.
func (g *Generator) transaction() []Command {
	list := []Command{command("MULTI")}
	if g.chance(0.03) {
		list = nil
	}
	list = append(list, slices.DeleteFunc(g.several(12), func(c Command) bool { return !g.queue(c.Name) })...)
	switch p := g.r.Float64(); {
	case p < 0.03:
		list = append(list, command("MULTI"))
	case p < 0.06:
		list = append(list, command("WATCH", g.key("string")))
	case p < 0.11:
		list = append(list, command("GET")) // aborts
	}
	if g.chance(0.1) {
		return append(list, command("DISCARD"))
	}
	return append(list, command("EXEC"))
}

// watched is a transaction of which another connection may touch a watched key first. It always ends: the other
// connection's commands are sent when the first have been answered.
func (g *Generator) watched(s *Step) {
	s.Commands = []Command{command("WATCH", g.key("string"), g.key("list"))}
	s.Commands = append(s.Commands, g.calm(3)...)
	if g.chance(0.3) {
		s.Commands = append(s.Commands, command("UNWATCH"))
	}
	s.Commands = append(s.Commands, g.transaction()...)
	if g.conns > 1 && g.chance(0.7) {
		s.Other = g.another(s.Conn)
		last := len(s.Commands) - 1
		s.Commands, s.After = s.Commands[:last], s.Commands[last:]
		s.Wake = append(g.several(3), command("SET", g.key("string"), g.word()))
	}
}

func (g *Generator) another(conn int) int { return (conn + 1 + g.r.IntN(g.conns-1)) % g.conns }

// parked is a command that may wait, and what may end that. It ends by itself after some seconds, should nothing.
func (g *Generator) parked(s *Step) {
	// Of these types in any case: what is sent to wake would not, and each would wait for its whole time.
	of := func(group string) string { return prefixes[group] + g.number(0, keysOfGroup-1) }
	list, zset, stream, to := of("list"), of("sorted_set"), of("stream"), of("list")
	g.stream++
	const long = "2"
	last := oneOf(g,
		command("BLPOP", list, g.key("list"), long), command("BRPOP", list, long), command("BLMOVE", list, to, "LEFT", "RIGHT", long),
		command("BRPOPLPUSH", list, to, long), command("BLMPOP", long, "2", list, g.key("list"), "LEFT", "COUNT", "2"),
		command("BZPOPMIN", zset, long), command("BZPOPMAX", zset, g.key("sorted_set"), long), command("BZMPOP", long, "1", zset, "MAX"),
		command("XREAD", "BLOCK", "2000", "STREAMS", stream, "$"), command("XREAD", "COUNT", "1", "BLOCK", "2000", "STREAMS", stream, "0-0"),
		command("XREADGROUP", "GROUP", "g1", "STREAMS", "BLOCK", "2000", "STREAMS", stream, ">"))
	s.Commands = append(g.calm(4), command("DEL", list, zset, stream, to))
	if last.Name == "XREADGROUP" {
		s.Commands = append(s.Commands, sub("XGROUP", "CREATE", stream, "g1", "$", "MKSTREAM"))
	}
	s.Commands = append(s.Commands, last)
	s.Other = g.another(s.Conn)
	s.Wake = append(g.several(3), command("SET", list, "of another type"), command("DEL", list, zset, stream),
		command("RPUSH", list, g.word(), g.word()), command("ZADD", zset, "1", g.word(), "2", "last"),
		command("XADD", stream, g.streamID(g.byName["XADD"]), "f", g.word()),
		command("XADD", stream, "999999999-1", "f", "last"))
}

// session changes the state of a connection and sets it back.
func (g *Generator) session() []Command {
	switch g.r.IntN(7) {
	case 0:
		return []Command{command("HELLO", "3"), g.Random(), command("HGETALL", g.key("hash")), command("ZRANGE", g.key("sorted_set"), "0", "-1", "WITHSCORES"),
			command("HELLO", "2"), g.Random()}
	case 1:
		return []Command{sub("CLIENT", "SETNAME", "tester"), sub("CLIENT", "GETNAME"), g.Random(), command("RESET"), sub("CLIENT", "GETNAME")}
	case 2:
		return []Command{command("SELECT", "0"), g.Random(), command("HELLO"), command("HELLO", "9"), command("HELLO", "x")}
	case 3:
		return []Command{command("MULTI"), command("GET", g.key("string")), command("RESET"), command("EXEC")}
	case 4:
		return []Command{sub("CLIENT", "SETNAME", "a name"), sub("CLIENT", "SETNAME", ""), sub("CLIENT", "GETNAME"), command("AUTH", "x"),
			sub("CLIENT", "SETNAME", "\x00a name"), sub("CLIENT", "GETNAME")}
	case 5:
		return []Command{sub("CLIENT", "SETINFO", "lib-name", "a library"), sub("CLIENT", "SETINFO", "lib-ver", "1"), sub("CLIENT", "SETINFO", "of no such", "x")}
	default:
		return append(g.several(3), command("QUIT"))
	}
}

// published lets messages come in between the replies of a connection.
func (g *Generator) published(s *Step) {
	s.Commands = []Command{command("SUBSCRIBE", "ch1", "ch2"), command("PSUBSCRIBE", "c*"), command("PING"), command("GET", "d:s:1"), command("PING", "x")}
	if g.chance(0.3) {
		s.Commands = append([]Command{command("HELLO", "3")}, s.Commands...)
	}
	s.Other, s.Listens, s.After = g.another(s.Conn), true, []Command{command("RESET")}
	s.Wake = append(g.several(3), command("PUBLISH", "ch1", g.word()), sub("PUBSUB", "NUMSUB", "ch1", "ch2"), sub("PUBSUB", "NUMPAT"), command("PUBLISH", "ch3", "x"))
}

// large moves values that no buffer holds at once.
func (g *Generator) large() []Command {
	key, value := oneOf(g, big...), strings.Repeat(g.word()+"x", 1+g.r.IntN(20000))
	return []Command{command("SET", key, value), command("APPEND", key, value[:g.r.IntN(len(value))]), command("STRLEN", key),
		command("GETRANGE", key, g.number(0, 1000), "-1"), command("GET", key), command("SETRANGE", key, g.number(0, 100000), value)}
}

// inline are commands that fit on a line.
func (g *Generator) inline() []Command {
	list := g.several(8)
	return slices.DeleteFunc(list, func(c Command) bool {
		return slices.ContainsFunc(c.Args, func(arg string) bool {
			return arg == "" || strings.ContainsAny(arg, " \r\n\x00\"'\\") || len(arg) > 1000
		})
	})
}
