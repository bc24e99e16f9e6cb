package respapi

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// keeping keeps every answer.
type keeping struct {
	net.Conn
	got *bytes.Buffer
}

func (k keeping) Write(p []byte) (int, error)      { return k.got.Write(p) }
func (k keeping) RemoteAddr() net.Addr             { return elsewhere{}.RemoteAddr() }
func (k keeping) SetWriteDeadline(time.Time) error { return nil }

// FuzzExecute gives lines of words to every command: whatever they are, each
// line has answers that are whole, in both protocols, and nothing panics.
func FuzzExecute(f *testing.F) {
	s := New(Config{Registry: newMemory(f)})
	for _, cmd := range s.listed {
		f.Add([]byte(cmd.usage()), true)
		f.Add([]byte(strings.ToLower(cmd.name)+" app: from a TO b WRITER a id m1 mode assisted"), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, three bool) {
		reg := newMemory(t)
		reg.declared(t)
		srv := New(Config{Registry: reg})
		srv.shutDown() // waits end at once, and so do subscriptions
		near, far := net.Pipe()
		defer far.Close()
		defer near.Close()
		var got bytes.Buffer
		c := newConn(srv, keeping{near, &got}, 1)
		defer c.unsubscribe()
		if three {
			c.execute(c.caller(), arguments("HELLO", "3"))
		}
		for line := range bytes.Lines(data) {
			args := bytes.Fields(line)
			if len(args) == 0 {
				continue
			}
			c.execute(c.caller(), args)
			if err := c.flush(); err != nil || c.w.Buffered() > 0 {
				t.Fatalf("%q: %v", line, err)
			}
			answers := &client{t: t, r: bufio.NewReader(&got)}
			for first := true; first || answers.r.Buffered() > 0; first = false {
				if reply, err := answers.reply(); err != nil {
					t.Fatalf("%q: %v in %q", line, err, reply)
				}
			}
		}
		if c.w.Proto() != c.about.Load().proto {
			t.Errorf("the writer speaks RESP%d, the client was told RESP%d", c.w.Proto(), c.about.Load().proto)
		}
	})
}
