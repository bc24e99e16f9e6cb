package respapi

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// anyNumber is the most arguments of a command that takes any number of them:
// the codec bounds them.
const anyNumber = 1 << 20

// maxWord is longer than every word of a command's name.
const maxWord = 32

// maxShown bounds in bytes what an error repeats of a command, as Redis does.
const maxShown = 128

// command is one row of the table.
type command struct {
	name     string // in upper case, as many words as it has
	args     string // how its arguments are written, for people
	about    string
	group    string
	min, max int // how many arguments follow the name
	// action is the row of the table of access that says who may give it.
	action access.Action
	roles  uint // a bit for each role that may, at least for itself
	// pubsub: allowed while a client of RESP2, which cannot tell an answer from
	// a message, is subscribed.
	pubsub bool
	// run answers or returns an error, never both. The arguments are valid until
	// it returns. Nil for the first word of others.
	run func(c *conn, args [][]byte) error

	subs map[string]*command
	ok   prometheus.Counter
}

// The groups of commands.
const (
	groupRegistry   = "registry"
	groupConnection = "connection"
	groupServer     = "server"
)

// makeTable fills s.commands and s.listed.
func (s *Server) makeTable() {
	s.commands = map[string]*command{}
	for _, family := range [][]command{
		routeCommands(), scopeCommands(), nodeCommands(), moveCommands(), stepCommands(), eventCommands(),
		connectionCommands(), clientCommands(), serverCommands(), commandCommands(),
	} {
		for i := range family {
			s.add(&family[i])
		}
	}
}

// add puts a command in its place. The first words of longer names, which are
// made on the way, each know HELP.
func (s *Server) add(cmd *command) {
	if cmd.action == "" && cmd.group != groupRegistry {
		cmd.action = access.Connect
	}
	if !access.Known(cmd.action) {
		panic("command " + cmd.name + " has no row in the table of access")
	}
	for role := access.Nobody; role <= access.Server; role++ {
		if role.Reach(cmd.action) != access.Never {
			cmd.roles |= 1 << role
		}
	}
	cmd.ok = s.metrics.commands.WithLabelValues(cmd.name, resultOK)
	s.listed = append(s.listed, cmd)
	words := strings.Fields(cmd.name)
	in := s.commands
	for i := range words[:len(words)-1] {
		next := in[words[i]]
		if next == nil {
			next = &command{name: strings.Join(words[:i+1], " "), group: cmd.group, action: access.Connect}
			in[words[i]] = next
		}
		if next.subs == nil {
			next.subs = map[string]*command{}
			s.add(&command{name: next.name + " HELP", about: "These lines", group: next.group, action: access.Connect, run: helpOn(next.name)})
		}
		in = next.subs
	}
	in[words[len(words)-1]] = cmd
}

// lookup finds a word in any case. It does not allocate.
func lookup(in map[string]*command, word []byte) *command {
	var room [maxWord]byte
	if len(word) > len(room) {
		return nil
	}
	upper := room[:len(word)]
	for i, b := range word {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		upper[i] = b
	}
	return in[string(upper)]
}

// find returns the command that args begin with, and its arguments. With an
// error the command may be nil.
func (s *Server) find(args [][]byte) (*command, [][]byte, error) {
	cmd, rest := lookup(s.commands, args[0]), args[1:]
	if cmd == nil {
		return nil, nil, unknownCommand(args)
	}
	for cmd.subs != nil && len(rest) > 0 {
		sub := lookup(cmd.subs, rest[0])
		if sub == nil {
			return nil, nil, invalid("unknown subcommand '%s'. Try %s HELP.", shown(rest[0]), cmd.name)
		}
		cmd, rest = sub, rest[1:]
	}
	if cmd.run == nil || len(rest) < cmd.min || len(rest) > cmd.max {
		err := cmd.wrongNumber()
		return cmd, nil, err
	}
	return cmd, rest, nil
}

// spelling is how a client wrote a command's name, in its own letters.
type spelling struct {
	cmd   *command  // nil: none yet
	words [3][]byte // as many as the name has; no name has more
	n     int
}

// find is Server.find, which is asked only if the command is another one than the last: a store gives the same all the time.
func (c *conn) find(args [][]byte) (*command, [][]byte, error) {
	said := &c.said
	if said.cmd != nil && said.begins(args) {
		if rest := args[said.n:]; said.cmd.min <= len(rest) && len(rest) <= said.cmd.max {
			return said.cmd, rest, nil
		}
	}
	cmd, rest, err := c.srv.find(args)
	if err == nil {
		said.keep(cmd, args[:len(args)-len(rest)])
	}
	return cmd, rest, err
}

func (s *spelling) begins(args [][]byte) bool {
	if len(args) < s.n {
		return false
	}
	for i, word := range s.words[:s.n] {
		if !bytes.Equal(args[i], word) {
			return false
		}
	}
	return true
}

// keep notes how cmd was written. One that is also the first word of others is looked up each time.
func (s *spelling) keep(cmd *command, words [][]byte) {
	if cmd.subs != nil || len(words) > len(s.words) {
		return
	}
	s.cmd, s.n = cmd, len(words)
	for i, word := range words {
		s.words[i] = append(s.words[i][:0], word...)
	}
}

// id is the name as Redis writes it: in lower case, "scope|node|set".
func (cmd *command) id() string { return strings.ToLower(strings.ReplaceAll(cmd.name, " ", "|")) }

// usage is how the whole command is written.
func (cmd *command) usage() string { return strings.TrimSpace(cmd.name + " " + cmd.args) }

func (cmd *command) wrongNumber() error {
	text := fmt.Sprintf("wrong number of arguments for '%s' command", cmd.id())
	if cmd.group == groupRegistry && cmd.run != nil {
		text += "; use " + cmd.usage()
	}
	return invalid("%s", text)
}

// unknownCommand speaks as Redis does, and says what this port is to those who
// take it for a Redis.
func unknownCommand(args [][]byte) error {
	text := fmt.Sprintf("unknown command '%s', with args beginning with: ", shown(args[0]))
	for _, a := range args[1:] {
		if len(text) > maxShown {
			break
		}
		text += "'" + shown(a) + "' "
	}
	return invalid("%s(this port is a scope registry, which holds no data: SCOPE HELP)", text)
}

// execute answers one command of a caller.
func (c *conn) execute(by *caller, args [][]byte) {
	cmd, rest, err := c.find(args)
	if cmd != nil {
		if cmd != c.command.Load() {
			c.count()
			c.command.Store(cmd)
		}
		if refused := cmd.refusal(by.who); refused != nil {
			err = refused
		}
	}
	switch {
	case err != nil:
	case c.sub != nil && !cmd.pubsub && c.about.Load().proto == 2:
		err = invalid("Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context", cmd.id())
	default:
		err = cmd.run(c, rest)
	}
	if err == nil {
		c.answered++
		return
	}
	text, code := errorLine(err)
	c.srv.metrics.failed(cmd, code)
	c.reply(func(w *resp.Writer) { w.Error(access.Hide(text)) }) // clients log what they are told
}

// line is an error reply as it stands, for those of Redis that have no code of
// ours.
type line string

func (l line) Error() string { return string(l) }

// errorLine is err as it stands behind '-', and its code.
func errorLine(err error) (string, api.Code) {
	var words line
	var known *api.Error
	switch {
	case errors.As(err, &words):
		return string(words), api.Invalid
	case errors.As(err, &known):
		return known.Code.RESP() + " " + known.Detail, known.Code
	}
	return fmt.Sprintf("%s %v; look at the server's log, and at the state before a retry", api.Internal.RESP(), err), api.Internal
}

func invalid(format string, args ...any) error {
	return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf(format, args...)}
}

// shown is an argument as an error repeats it.
func shown(arg []byte) string {
	if len(arg) > maxShown {
		return scope.BytesText(string(arg[:maxShown])) + "…"
	}
	return scope.BytesText(string(arg))
}
