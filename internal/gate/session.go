package gate

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

// session is a command about the connection itself. Shared connections have no state of one client's: what reads or changes
// more than the gate keeps is done on a private one.
func (c *conn) session(cmd *commands.Command, args [][]byte, raw []byte) {
	if cmd.Op == commands.SetInfo && cmd.Missing {
		c.send(raw, slot{}) // for the store's own words
		return
	}
	if cmd.Arity > 0 && len(args) != cmd.Arity || len(args) < -cmd.Arity {
		c.sayError(arityText + strings.ToLower(cmd.Name) + "' command")
		return
	}
	if cmd.Op != commands.None {
		c.g.count.commands[Other][Answered].Add(1)
	}
	switch cmd.Op {
	case commands.Hello:
		c.hello(args)
	case commands.Auth:
		if c.usePrivate() {
			c.sendAndSee(raw, slot{})
		}
	case commands.Quit:
		c.say(okReply)
		c.quit = true
	case commands.Reset:
		c.dropPrivate()
		c.settle()
		c.proto, c.name, c.pipe = 2, nil, nil
		c.say([]byte("+RESET\r\n"))
	case commands.Select:
		c.selects(args[1])
	case commands.SetName:
		c.setName(args[2])
	case commands.GetName:
		c.getName()
	case commands.SetInfo:
		c.setInfo(args[2], args[3])
	default:
		c.send(raw, slot{})
	}
}

func (c *conn) selects(index []byte) {
	switch n, err := strconv.ParseInt(string(index), 10, 32); {
	case err != nil:
		c.sayError("ERR invalid DB index")
	case n != 0:
		c.refuse(commands.ErrOtherDatabase)
	default:
		c.say(okReply)
	}
}

func (c *conn) setName(name []byte) {
	if !c.g.goodName(name) {
		c.refuse(errName)
		return
	}
	c.name = bytes.Clone(name)
	c.say(okReply)
}

// goodName tells whether the store would take a name.
func (g *Gate) goodName(name []byte) bool {
	if !g.wholeNames {
		name = untilZero(name)
	}
	return goodText(name)
}

// setInfo checks as the stores do that have it, and keeps nothing.
func (c *conn) setInfo(option, value []byte) {
	option = untilZero(option)
	switch {
	case !bytes.EqualFold(option, []byte("lib-name")) && !bytes.EqualFold(option, []byte("lib-ver")):
		c.sayError("ERR Unrecognized option '" + string(option) + "'")
	case !goodText(untilZero(value)):
		c.sayError("ERR " + string(option) + " cannot contain spaces, newlines or special characters.")
	default:
		c.say(okReply)
	}
}

// goodText tells whether CLIENT LIST could show it.
func goodText(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r < '!' || r > '~' })
}

// untilZero is what the stores see of a text that they take for one of C.
func untilZero(b []byte) []byte {
	b, _, _ = bytes.Cut(b, []byte{0})
	return b
}

func (c *conn) getName() {
	switch {
	case len(c.name) > 0:
		c.say(appendBulk(nil, string(c.name)))
	case c.proto == 3:
		c.say([]byte("_\r\n"))
	default:
		c.say([]byte("$-1\r\n"))
	}
}

// hello is HELLO [version [AUTH user password] [SETNAME name]].
func (c *conn) hello(args [][]byte) {
	proto, auth, name, err := c.g.parseHello(c.proto, args)
	if err != nil {
		c.refuse(err)
		return
	}
	if auth != nil || c.private != nil {
		if !c.usePrivate() {
			return
		}
		n := &note{keep: true, proto: proto}
		c.sendOwn(slot{note: n}, append([][]byte{[]byte("HELLO"), strconv.AppendInt(nil, int64(proto), 10)}, auth...)...)
		c.settle()
		if len(n.head) > 0 && n.head[0] != '-' {
			c.proto = proto
			c.named(name)
		}
		return
	}
	text, err := c.g.greeting(c.g.life, proto, c.id)
	if err != nil {
		c.refuse(err)
		return
	}
	if proto != c.proto {
		c.settle() // the replies of the one before are sent
		c.proto, c.pipe = proto, nil
	}
	c.named(name)
	c.say(text)
}

func (c *conn) named(name []byte) {
	if name != nil {
		c.name = bytes.Clone(name)
	}
}

// parseHello returns the version, AUTH with its arguments if it is there, and the name if there is one.
func (g *Gate) parseHello(now int, args [][]byte) (proto int, auth [][]byte, name []byte, err error) {
	if len(args) == 1 {
		return now, nil, nil, nil
	}
	proto, err = strconv.Atoi(string(args[1]))
	switch {
	case err != nil:
		return 0, nil, nil, errors.New("ERR Protocol version is not an integer or out of range")
	case proto != 2 && proto != 3:
		return 0, nil, nil, errors.New("NOPROTO unsupported protocol version")
	}
	for rest := args[2:]; len(rest) > 0; {
		switch {
		case strings.EqualFold(string(rest[0]), "AUTH") && len(rest) >= 3:
			auth, rest = rest[:3], rest[3:]
		case strings.EqualFold(string(rest[0]), "SETNAME") && len(rest) >= 2:
			if name, rest = rest[1], rest[2:]; !g.goodName(name) {
				return 0, nil, nil, errName
			}
		default:
			return 0, nil, nil, errors.New("ERR Syntax error in HELLO option '" + string(rest[0]) + "'")
		}
	}
	return proto, auth, name, nil
}

// greeting is the reply to HELLO, which the store gives for the gate's own connection.
func (g *Gate) greeting(ctx context.Context, proto int, id uint64) ([]byte, error) {
	reply, err := g.store.Ask(ctx, "HELLO", "2")
	var no *upstream.RefusedError
	switch {
	case errors.As(err, &no):
		return nil, errors.New(no.Text)
	case err != nil:
		return nil, unavailable(err)
	}
	var b []byte
	if proto == 3 {
		b = appendHead(b, '%', len(reply.Items)/2)
	} else {
		b = appendHead(b, '*', len(reply.Items))
	}
	for i := 0; i+1 < len(reply.Items); i += 2 {
		b = appendBulk(b, reply.Items[i].Text)
		switch reply.Items[i].Text {
		case "proto":
			b = appendHead(b, ':', proto)
		case "id":
			b = appendHead(b, ':', int(id))
		default:
			b = appendReply(b, reply.Items[i+1])
		}
	}
	return b, nil
}

// appendReply encodes a reply as it was, in RESP2.
func appendReply(b []byte, r upstream.Reply) []byte {
	switch {
	case r.Null:
		return append(b, "$-1\r\n"...)
	case r.Kind == ':':
		return appendHead(b, ':', int(r.Int))
	case r.Kind == '*':
		b = appendHead(b, '*', len(r.Items))
		for _, item := range r.Items {
			b = appendReply(b, item)
		}
		return b
	}
	return appendBulk(b, r.Text)
}
