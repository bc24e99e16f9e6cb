package respapi

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/datadriven"

	"github.com/scope-registry/scope-registry/internal/api"
)

// The scripts of testdata, each against a server of its own.
//
//	send [conn=name] [replies=n]   inline commands, one per line; their replies
//	write [conn=name]              the same without reading
//	read [conn=name] [replies=n]   replies to what was written
//	closed [conn=name]             what comes until the server closes
//	registry [code=CODE] [down=CODE]   lets the registry fail; nothing: no more
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
	case "registry":
		var code, down string
		d.MaybeScanArgs(t, "code", &code)
		d.MaybeScanArgs(t, "down", &down)
		s.reg.set(func() { s.reg.Fail, s.reg.Down = failing(code), failing(down) })
	default:
		t.Fatalf("%s is no command of these scripts", d.Cmd)
	}
	return ""
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
