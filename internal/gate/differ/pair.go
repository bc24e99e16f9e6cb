package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/gate/differ/program"
)

// mark is what a listening connection asks to have back, behind all messages.
const mark = "end of step"

// patience is how long a reply may take. The longest that a program waits for in a store is two seconds.
const patience = 20 * time.Second

// side is one of the two ways to a store: directly, or through a gate.
type side struct {
	addr  string
	store string // the address of the store itself, where it says how many connections are parked
	conns []*conn
	info  *conn
}

// conn is one connection of a program.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func dial(ctx context.Context, addr string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 1<<16)}, nil
}

func (s *side) connect(ctx context.Context, n int) error {
	var err error
	if s.info == nil {
		if s.info, err = dial(ctx, s.store); err != nil {
			return err
		}
	}
	s.close()
	s.conns = make([]*conn, n)
	for i := range s.conns {
		if s.conns[i], err = dial(ctx, s.addr); err != nil {
			return err
		}
	}
	return nil
}

func (s *side) close() {
	for _, c := range s.conns {
		if c != nil {
			c.Close()
		}
	}
}

// encode writes commands as they go over the wire.
func encode(commands []program.Command, inline bool) []byte {
	var b bytes.Buffer
	for _, c := range commands {
		if inline {
			b.WriteString(strings.Join(c.Args, " ") + "\r\n")
			continue
		}
		fmt.Fprintf(&b, "*%d\r\n", len(c.Args))
		for _, arg := range c.Args {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
		}
	}
	return b.Bytes()
}

// answer is what came back on one connection, in order.
type answer struct {
	replies [][]byte
	err     error // that the connection ended with; nil is not
}

// mostPieces bounds the pieces of what is sent chopped: each is a system call, here and in the gate.
const mostPieces = 200

// send writes the bytes in pieces and reads so many replies; it writes while it reads, since both ends may be full.
func (c *conn) send(data []byte, chop, replies int) <-chan answer {
	piece := max(chop, len(data)/mostPieces)
	go func() {
		for len(data) > 0 {
			n := len(data)
			if chop > 0 {
				n = min(piece, n)
			}
			if _, err := c.Write(data[:n]); err != nil {
				return // the reader is told so too
			}
			data = data[n:]
		}
	}()
	done := make(chan answer, 1)
	go func() {
		a := answer{err: c.SetDeadline(time.Now().Add(patience))}
		for len(a.replies) < replies && a.err == nil {
			var raw []byte
			if raw, a.err = readReply(c.r); a.err == nil {
				a.replies = append(a.replies, raw)
			}
		}
		done <- a
	}()
	return done
}

// listen sends commands and then reads up to the reply to a PING with the mark.
func (c *conn) listen(data []byte) answer {
	data = append(data, encode([]program.Command{{Args: []string{"PING", mark}}}, false)...)
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{err: err}
	}
	if _, err := c.Write(data); err != nil {
		return answer{err: err}
	}
	var a answer
	for {
		raw, err := readReply(c.r)
		if err != nil {
			a.err = err
			return a
		}
		a.replies = append(a.replies, raw)
		if raw[0] != '>' && bytes.Contains(raw, []byte("\r\n"+mark+"\r\n")) {
			return a
		}
	}
}

// settle waits until the answer is there, or one connection is parked in the store.
func (s *side) settle(pending <-chan answer) (*answer, error) {
	for {
		select {
		case a := <-pending:
			return &a, nil
		default:
		}
		a := <-s.info.send(encode([]program.Command{{Args: []string{"INFO", "clients"}}}, false), 0, 1)
		if a.err != nil {
			return nil, fmt.Errorf("asking the store at %s for its clients: %w", s.store, a.err)
		}
		if !bytes.Contains(a.replies[0], []byte("\r\nblocked_clients:0\r\n")) {
			return nil, nil
		}
	}
}

// play runs a step and returns what came back, connection by connection. An error is of the harness.
func (s *side) play(ctx context.Context, step program.Step) ([]answer, error) {
	c := s.conns[step.Conn]
	data := encode(step.Commands, step.Inline)
	var all []answer
	switch {
	case step.Listens:
		all = append(all, c.listen(data))
	default:
		pending := c.send(data, step.Chop, len(step.Commands))
		if len(step.Wake) == 0 {
			all = append(all, <-pending)
			break
		}
		first, err := s.settle(pending)
		if err != nil {
			return nil, err
		}
		second := <-s.conns[step.Other].send(encode(step.Wake, false), 0, len(step.Wake))
		if first == nil {
			a := <-pending
			first = &a
		}
		all = append(all, *first, second)
	}
	if step.Listens {
		all = append(all, <-s.conns[step.Other].send(encode(step.Wake, false), 0, len(step.Wake)), c.listen(nil))
	}
	if len(step.After) > 0 {
		all = append(all, <-c.send(encode(step.After, false), 0, len(step.After)))
	}
	return all, s.renew(ctx, step)
}

// renew connects again where a program said QUIT.
func (s *side) renew(ctx context.Context, step program.Step) error {
	if n := len(step.Commands); n == 0 || step.Commands[n-1].Name != "QUIT" {
		return nil
	}
	if raw, err := readReply(s.conns[step.Conn].r); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: after QUIT came %q, %w", s.addr, raw, err)
	}
	s.conns[step.Conn].Close()
	var err error
	s.conns[step.Conn], err = dial(ctx, s.addr)
	return err
}
