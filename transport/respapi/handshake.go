package respapi

import (
	"strconv"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// redisVersion is the release whose answers ours are like. Clients read it to
// know what a server can do; ours stands in INFO as registry_version.
const redisVersion = "7.4.0"

// serverName is what HELLO says this is.
const serverName = "scope-registry"

func connectionCommands() []command {
	return []command{
		{name: "HELLO", args: "[2|3 [AUTH <user> <token>] [SETNAME <name>]]", about: "Choose the protocol; what this server is",
			group: groupConnection, max: 6, run: (*conn).hello},
		{name: "AUTH", args: "[<user>] <token>", about: "Show a token; the user does not matter", group: groupConnection, min: 1, max: 2, run: (*conn).auth},
		{name: "PING", args: "[<message>]", about: "Whether this server answers", group: groupConnection, max: 1, pubsub: true, run: (*conn).ping},
		{name: "ECHO", args: "<message>", about: "The message", group: groupConnection, min: 1, max: 1, run: (*conn).echo},
		{name: "QUIT", about: "End the connection", group: groupConnection, max: anyNumber, pubsub: true, run: (*conn).leave},
		{name: "RESET", about: "Make the connection as it was at its start", group: groupConnection, pubsub: true, run: (*conn).reset},
		{name: "SELECT", args: "0", about: "There is one database", group: groupConnection, min: 1, max: 1, run: (*conn).selectDB},
	}
}

func (c *conn) hello(args [][]byte) error {
	next := *c.about.Load()
	var token []byte
	if len(args) > 0 {
		v, err := strconv.ParseInt(string(args[0]), 10, 64)
		if err != nil {
			return invalid("Protocol version is not an integer or out of range")
		}
		if v != 2 && v != 3 {
			return line("NOPROTO unsupported protocol version")
		}
		next.proto = int(v)
		args = args[1:]
	}
	for len(args) > 0 {
		switch {
		case isWord(args[0], "AUTH") && len(args) >= 3:
			token, args = args[2], args[3:]
		case isWord(args[0], "SETNAME") && len(args) >= 2:
			if err := checkName("Client names", args[1]); err != nil {
				return err
			}
			next.name, args = string(args[1]), args[2:]
		default:
			return invalid("Syntax error in HELLO option '%s'", shown(args[0]))
		}
	}
	if token != nil {
		if err := c.show(token); err != nil {
			return err
		}
	} else if c.caller().who.Role == access.Nobody {
		return line(helloAuth)
	}
	c.about.Store(&next)
	c.reply(func(w *resp.Writer) {
		w.SetProto(next.proto)
		write(w, pairs{
			{"server", serverName}, {"version", redisVersion}, {"proto", next.proto}, {"id", c.id},
			{"mode", "standalone"}, {"role", "master"}, {"modules", []string{}},
		})
	})
	return nil
}

// ping answers a subscriber of RESP2 in the form of a message, as it expects.
func (c *conn) ping(args [][]byte) error {
	c.reply(func(w *resp.Writer) {
		switch {
		case c.sub != nil && w.Proto() == 2:
			w.Array(2)
			w.BulkString("pong")
			w.BulkString(joined(args))
		case len(args) == 1:
			w.Bulk(args[0])
		default:
			w.Simple("PONG")
		}
	})
	return nil
}

func (c *conn) echo(args [][]byte) error {
	c.reply(func(w *resp.Writer) { w.Bulk(args[0]) })
	return nil
}

func (c *conn) leave([][]byte) error {
	c.quit = true
	return c.done()
}

func (c *conn) reset([][]byte) error {
	c.unsubscribe()
	c.forget()
	c.describe(func(p *profile) { *p = profile{lib: p.lib, libVersion: p.libVersion, proto: 2} })
	c.reply(func(w *resp.Writer) {
		w.SetProto(2)
		w.Simple("RESET")
	})
	return nil
}

func (c *conn) selectDB(args [][]byte) error {
	n, err := strconv.ParseInt(string(args[0]), 10, 64)
	switch {
	case err != nil:
		return invalid("value is not an integer or out of range")
	case n != 0:
		return invalid("DB index is out of range")
	}
	return c.done()
}
