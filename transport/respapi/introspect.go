package respapi

import (
	"strings"

	"github.com/scope-registry/scope-registry/transport/resp"
)

func commandCommands() []command {
	return []command{
		{name: "COMMAND", about: "The commands of this server", group: groupServer, run: func(c *conn, _ [][]byte) error {
			c.reply(func(w *resp.Writer) { write(w, eachCommand(c.srv.top(), (*Server).spec, c.srv)) })
			return nil
		}},
		{name: "COMMAND COUNT", about: "How many commands there are", group: groupServer, run: func(c *conn, _ [][]byte) error {
			c.reply(func(w *resp.Writer) { w.Int(int64(len(c.srv.top()))) })
			return nil
		}},
		{name: "COMMAND INFO", args: "[<name> …]", about: "The named commands", group: groupServer, max: anyNumber, run: (*conn).commandInfo},
		{name: "COMMAND DOCS", args: "[<name> …]", about: "What commands do, for programs that help people type",
			group: groupServer, max: anyNumber, run: (*conn).commandDocs},
	}
}

// helpOn answers with what a command's words may be followed by, for SCOPE with
// everything about scopes.
func helpOn(name string) func(*conn, [][]byte) error {
	return func(c *conn, _ [][]byte) error {
		lines := []string{name + " <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"}
		for _, cmd := range c.srv.listed {
			if strings.HasPrefix(cmd.name, name+" ") || name == "SCOPE" && cmd.group == groupRegistry {
				lines = append(lines, cmd.usage(), "    "+cmd.about)
			}
		}
		c.reply(func(w *resp.Writer) {
			w.Array(len(lines))
			for _, l := range lines {
				w.Simple(l)
			}
		})
		return nil
	}
}

// top are the first words of all commands, in the order of HELP.
func (s *Server) top() []*command {
	var out []*command
	seen := map[string]bool{}
	for _, cmd := range s.listed {
		if word := cmd.firstWord(); !seen[word] {
			seen[word] = true
			out = append(out, s.commands[word])
		}
	}
	return out
}

func (cmd *command) firstWord() string {
	word, _, _ := strings.Cut(cmd.name, " ")
	return word
}

// under are the commands whose name goes on where cmd's ends.
func (s *Server) under(cmd *command) []*command {
	var out []*command
	for _, other := range s.listed {
		if strings.HasPrefix(other.name, cmd.name+" ") {
			out = append(out, other)
		}
	}
	return out
}

func eachCommand(cmds []*command, show func(*Server, *command) any, s *Server) []any {
	out := make([]any, len(cmds))
	for i, cmd := range cmds {
		out[i] = show(s, cmd)
	}
	return out
}

// arity is how Redis counts: the words of the name included, and negative if
// more may follow.
func (cmd *command) arity() int {
	words := len(strings.Fields(cmd.name))
	switch {
	case cmd.subs != nil && cmd.run == nil:
		return -words - 1
	case cmd.subs != nil || cmd.min != cmd.max:
		return -words - cmd.min
	}
	return words + cmd.min
}

// spec is a row of COMMAND. No command has keys in Redis's sense: a client must
// not spread them over a cluster.
func (s *Server) spec(cmd *command) any {
	var subs []any
	if !strings.Contains(cmd.name, " ") {
		subs = eachCommand(s.under(cmd), (*Server).spec, s)
	}
	none := []any{}
	return []any{cmd.id(), cmd.arity(), none, 0, 0, 0, none, none, none, subs}
}

func (c *conn) commandInfo(args [][]byte) error {
	out := []any{}
	for _, name := range args {
		if cmd := lookup(c.srv.commands, name); cmd != nil {
			out = append(out, c.srv.spec(cmd))
		} else {
			out = append(out, nil)
		}
	}
	if len(args) == 0 {
		out = eachCommand(c.srv.top(), (*Server).spec, c.srv)
	}
	c.reply(func(w *resp.Writer) { write(w, out) })
	return nil
}

func (c *conn) commandDocs(args [][]byte) error {
	var out pairs
	for _, cmd := range c.srv.top() {
		asked := len(args) == 0
		for _, name := range args {
			asked = asked || isWord(name, cmd.name)
		}
		if asked {
			out = append(out, pair{strings.ToLower(cmd.name), c.srv.doc(cmd)})
		}
	}
	c.reply(func(w *resp.Writer) { write(w, out) })
	return nil
}

// doc is a command as redis-cli reads it, for its hints and its help. The
// arguments are one text: what Redis has a tree for, people read as a line.
func (s *Server) doc(cmd *command) pairs {
	about := cmd.about
	if about == "" {
		about = "A container of commands, see " + cmd.name + " HELP"
	}
	out := pairs{{"summary", about}, {"since", "1.0.0"}, {"group", cmd.group}}
	if cmd.args != "" {
		out = append(out, pair{"arguments", []any{pairs{{"name", cmd.args}, {"type", "string"}, {"display_text", cmd.args}}}})
	}
	var subs pairs
	if !strings.Contains(cmd.name, " ") {
		for _, sub := range s.under(cmd) {
			_, rest, _ := strings.Cut(sub.name, " ")
			subs = append(subs, pair{strings.ToLower(cmd.name + "|" + rest), s.doc(sub)})
		}
	}
	if subs != nil {
		out = append(out, pair{"subcommands", subs})
	}
	return out
}
