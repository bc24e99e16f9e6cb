package respapi

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/datadriven"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// The scripts of testdata, each against a server of its own.
//
//	send [conn=name] [replies=n]   inline commands, one per line; their replies
//	write [conn=name]              the same without reading
//	read [conn=name] [replies=n]   replies to what was written
//	closed [conn=name]             what comes until the server closes
//	node [open=ID] [expire=ID] [seen=ID]   its session s-ID is opened, or has expired; or its view has reached the index of now
//	move [report=ID] [shipped=ID] [ready=ID] [abort=ID]   a word about m1 of the node's session
//	registry [code=CODE] [down=CODE] [deaf=yes]   lets the registry fail, or its leader not answer; nothing: no more
//
// Replies are shown line by line, bulk strings behind their length; bytes that
// are not printable as \xNN, a backslash as \\.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{served(t, newPipes()), map[string]*client{}}
				datadriven.RunTest(t, file, s.run)
			})
		})
	}
}

type script struct {
	*bench
	clients map[string]*client
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	synctest.Wait() // everything that follows from the step before has happened
	name, replies := "1", strings.Count(d.Input, "\n")+1
	d.MaybeScanArgs(t, "conn", &name)
	d.MaybeScanArgs(t, "replies", &replies)
	c := s.clients[name]
	if c == nil {
		c = s.dial()
		s.clients[name] = c
	}
	switch d.Cmd {
	case "send":
		// A pipe has no room: who writes waits for who reads.
		go c.send(crlf(d.Input))
		return visible(take(c, replies))
	case "write":
		go c.send(crlf(d.Input))
	case "read":
		return visible(take(c, replies))
	case "closed":
		defer delete(s.clients, name)
		return visible(c.closed())
	case "node":
		s.node(d)
	case "move":
		s.move(d)
	case "registry":
		var code, down, deaf string
		d.MaybeScanArgs(t, "code", &code)
		d.MaybeScanArgs(t, "down", &down)
		d.MaybeScanArgs(t, "deaf", &deaf)
		s.reg.set(func() {
			s.reg.Fail, s.reg.Down, s.reg.Deaf = failing(code), failing(down), nil
			if deaf != "" {
				s.reg.Deaf = make(chan struct{})
			}
		})
	default:
		t.Fatalf("%s is no command of these scripts", d.Cmd)
	}
	return ""
}

// node does what a node's process does besides moves.
func (s *script) node(d *datadriven.TestData) {
	var open, expire, seen string
	d.MaybeScanArgs(s.t, "open", &open)
	d.MaybeScanArgs(s.t, "expire", &expire)
	d.MaybeScanArgs(s.t, "seen", &seen)
	switch c := s.reg.State().Cluster(); {
	case open != "":
		if c.ID == "" {
			s.reg.apply(s.t, &fsm.InitCluster{Id: "c1"})
			c = s.reg.State().Cluster()
		}
		s.reg.apply(s.t, &fsm.OpenSession{Node: open, Identity: "disk-" + open, Session: "s-" + open,
			TokenHash: make([]byte, fsm.TokenHashLen), Incarnation: c.Incarnation, IncarnationTag: c.Tag})
	case expire != "":
		s.reg.apply(s.t, &fsm.Expire{Session: "s-" + expire, Term: 1})
	case seen != "":
		if _, err := s.reg.Renew(s.t.Context(), api.Renewal{Session: "s-" + seen, View: s.reg.State().Index()}); err != nil {
			s.t.Error(err)
		}
	}
}

// move says a node's word about m1.
func (s *script) move(d *datadriven.TestData) {
	var report, shipped, ready, abort string
	d.MaybeScanArgs(s.t, "report", &report)
	d.MaybeScanArgs(s.t, "shipped", &shipped)
	d.MaybeScanArgs(s.t, "ready", &ready)
	d.MaybeScanArgs(s.t, "abort", &abort)
	sums := &fsm.Manifest{Keys: 12, Bytes: 340}
	switch {
	case report != "":
		err := s.reg.Report(s.t.Context(), api.Report{Move: "m1", Session: "s-" + report, Keys: 7, Bytes: 300, KeysLeft: 5, BytesLeft: 1 << 20})
		if err != nil {
			s.t.Error(err)
		}
	case shipped != "":
		s.reg.apply(s.t, &fsm.Shipped{Move: "m1", Manifest: sums, Session: "s-" + shipped})
	case ready != "":
		s.reg.apply(s.t, &fsm.Ready{Move: "m1", Manifest: sums, Session: "s-" + ready})
	case abort != "":
		s.reg.apply(s.t, &fsm.Abort{Move: "m1", Reason: "disk full", Session: "s-" + abort})
	}
}

func failing(code string) error {
	if code == "" {
		return nil
	}
	return &api.Error{Code: api.Code(code), Detail: "so it is"}
}

func crlf(lines string) string { return strings.ReplaceAll(lines, "\n", "\r\n") + "\r\n" }

func take(c *client, replies int) string {
	var all strings.Builder
	for range replies {
		got, err := c.reply()
		all.WriteString(got)
		if err != nil {
			fmt.Fprintf(&all, "(%v)\r\n", err)
		}
	}
	return all.String()
}

// bulkHead is what stands before a bulk string; it is shown on the same line.
var bulkHead = regexp.MustCompile(`(?m)^(\$\d+)\r\n`)

func visible(reply string) string {
	var out strings.Builder
	for _, line := range strings.SplitAfter(bulkHead.ReplaceAllString(reply, "$1 "), "\r\n") {
		text, whole := strings.CutSuffix(line, "\r\n")
		for _, b := range []byte(text) {
			switch {
			case b < 0x20 || b > 0x7e:
				fmt.Fprintf(&out, `\x%02x`, b)
			case b == '\\':
				out.WriteString(`\\`)
			default:
				out.WriteByte(b)
			}
		}
		if whole {
			out.WriteByte('\n')
		}
	}
	return out.String()
}
