package respapi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// An actor is actorStart, a name and a host behind an "@".
const (
	actorStart = "resp:"
	// maxHost is what is left of it for the host: more than any IP address has.
	maxHost = fsm.MaxActor - len(actorStart) - MaxName - len("@")
)

func clientCommands() []command {
	return []command{
		{name: "CLIENT ID", about: "The number of this connection", group: groupConnection, run: (*conn).clientID},
		{name: "CLIENT SETNAME", args: "<name>", about: "Name this connection; the name is recorded with moves",
			group: groupConnection, min: 1, max: 1, run: (*conn).setName},
		{name: "CLIENT GETNAME", about: "The name of this connection", group: groupConnection, run: (*conn).getName},
		{name: "CLIENT SETINFO", args: "LIB-NAME|LIB-VER <value>", about: "The client library of this connection",
			group: groupConnection, min: 2, max: 2, run: (*conn).setInfo},
		{name: "CLIENT INFO", about: "This connection", group: groupConnection, run: (*conn).clientInfo},
		{name: "CLIENT LIST", action: access.Metrics, about: fmt.Sprintf("The connections of this server, the oldest %d", MaxCount), group: groupConnection, run: (*conn).clientList},
		{name: "CLIENT NO-EVICT", args: "ON|OFF", about: "Accepted and without effect", group: groupConnection, min: 1, max: 1, run: (*conn).onOff},
		{name: "CLIENT NO-TOUCH", args: "ON|OFF", about: "Accepted and without effect", group: groupConnection, min: 1, max: 1, run: (*conn).onOff},
	}
}

// actor is who asks, as it is recorded with moves.
func (c *conn) actor() string {
	if who := c.caller().who; who.Role != access.Anonymous {
		return who.String()
	}
	name := c.about.Load().name
	if name == "" {
		name = "anonymous"
	}
	return actorStart + name + "@" + c.host
}

// printable reports whether text is ASCII from least to '~'.
func printable(text string, least rune) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r < least || r > '~' }) < 0
}

// checkName checks what a client calls itself; what names it for Redis's words.
func checkName(what string, name []byte) error {
	if len(name) > MaxName {
		return invalid("%s have at most %d bytes, this one has %d", what, MaxName, len(name))
	}
	if !printable(string(name), '!') {
		return invalid("%s cannot contain spaces, newlines or special characters.", what)
	}
	return nil
}

func (c *conn) clientID([][]byte) error {
	c.reply(func(w *resp.Writer) { w.Int(c.id) })
	return nil
}

func (c *conn) setName(args [][]byte) error {
	if err := checkName("Client names", args[0]); err != nil {
		return err
	}
	c.describe(func(p *profile) { p.name = string(args[0]) })
	return c.done()
}

func (c *conn) getName([][]byte) error {
	c.reply(func(w *resp.Writer) {
		if name := c.about.Load().name; name != "" {
			w.BulkString(name)
		} else {
			w.Null()
		}
	})
	return nil
}

func (c *conn) setInfo(args [][]byte) error {
	name, version := isWord(args[0], "LIB-NAME"), isWord(args[0], "LIB-VER")
	if !name && !version {
		return invalid("Unrecognized option '%s'", shown(args[0]))
	}
	if err := checkName(strings.ToLower(string(args[0]))+"s", args[1]); err != nil {
		return err
	}
	c.describe(func(p *profile) {
		if name {
			p.lib = string(args[1])
		} else {
			p.libVersion = string(args[1])
		}
	})
	return c.done()
}

func (c *conn) onOff(args [][]byte) error {
	if !isWord(args[0], "ON") && !isWord(args[0], "OFF") {
		return invalid("syntax error: '%s' is neither ON nor OFF", shown(args[0]))
	}
	return c.done()
}

func (c *conn) clientInfo([][]byte) error {
	c.reply(func(w *resp.Writer) { w.BulkString(c.facts(time.Now()) + "\n") })
	return nil
}

func (c *conn) clientList([][]byte) error {
	var all []*conn
	c.srv.eachConn(func(other *conn) { all = append(all, other) })
	slices.SortFunc(all, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	var out strings.Builder
	now := time.Now()
	for _, other := range all[:min(len(all), MaxCount)] {
		out.WriteString(other.facts(now) + "\n")
	}
	c.reply(func(w *resp.Writer) { w.BulkString(out.String()) })
	return nil
}

// facts is a connection as a line of CLIENT LIST. Any goroutine may ask.
func (c *conn) facts(now time.Time) string {
	p, cmd, subs, flags := c.about.Load(), "NULL", 0, "N"
	if last := c.command.Load(); last != nil {
		cmd = last.id()
	}
	if p.subscribed {
		subs, flags = 1, "P"
	}
	return fmt.Sprintf("id=%d addr=%v laddr=%v name=%s age=%d idle=%d flags=%s db=0 sub=%d psub=0 cmd=%s user=%s lib-name=%s lib-ver=%s resp=%d",
		c.id, c.nc.RemoteAddr(), c.nc.LocalAddr(), p.name, int(now.Sub(c.since).Seconds()),
		int(now.Sub(time.Unix(0, c.lastRead.Load())).Seconds()), flags, subs, cmd, c.user(), p.lib, p.libVersion, p.proto)
}
