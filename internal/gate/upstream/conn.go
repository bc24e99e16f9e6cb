package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/scope-registry/scope-registry/internal/tcp"
)

const (
	// dialTime bounds connecting, TLS included: a store that lives takes milliseconds.
	dialTime = 2 * time.Second
	// askTime bounds the wait for a reply to a command of the gate's own. What takes longer is a store that stands still, or
	// that is busy with somebody's long command; both are asked again.
	askTime = 5 * time.Second
	// deadAfter is after how long without a confirmation of what was sent a connection is dead: its commands are answered
	// then, and a move of their scopes goes on. A store that takes nothing for so long as it is at one long command is
	// counted too, so that it is longer than between servers of the registry.
	deadAfter = 30 * time.Second
)

// Conn is a connection to the store: authenticated, named, in RESP2, with nothing under way.
type Conn struct {
	net.Conn
	// ID is the store's number of it, for CLIENT UNBLOCK.
	ID int64
	// Name is the one that the store shows in CLIENT LIST. No other connection of any gate has it: numbers begin anew when a
	// store starts, names do not. Nothing may change it.
	Name string
}

// link is a connection with somebody who reads replies.
type link struct {
	*Conn
	in *bufio.Reader
}

// ask sends a command and returns its reply, an error of the store as *RefusedError. After any other error the link is of
// no use.
func (l *link) ask(ctx context.Context, args ...string) (Reply, error) {
	replies, err := l.askAll(ctx, args)
	if err != nil {
		return Reply{}, err
	}
	return replies[0], refused(replies[0], args)
}

// askAll sends commands together and returns all replies, errors of the store among them.
func (l *link) askAll(ctx context.Context, commands ...[]string) ([]Reply, error) {
	deadline := time.Now().Add(askTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := l.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) }) // wakes it
	defer stop()
	var out []byte
	for _, c := range commands {
		out = appendCommand(out, c...)
	}
	if _, err := l.Write(out); err != nil {
		return nil, fmt.Errorf("asking the store: %w", err)
	}
	replies := make([]Reply, 0, len(commands))
	for _, c := range commands {
		r, err := readReply(l.in)
		if err != nil {
			return nil, fmt.Errorf("the store's reply to %s: %w", c[0], err)
		}
		replies = append(replies, r)
	}
	if !stop() { // the deadline has been set, or is about to be
		return nil, ctx.Err()
	}
	return replies, nil
}

// refused is the error of a reply that is one.
func refused(r Reply, args []string) error {
	if r.Kind != '-' {
		return nil
	}
	command := args[0]
	if command == "CLIENT" {
		command += " " + args[1]
	}
	return &RefusedError{Command: command, Text: r.Text}
}

// connect makes a connection, with the name before everything else: whoever looks for a gate's connections after it has
// taken the lock sees every one that was named before, and those that are named later see the lock.
func (s *Store) connect(ctx context.Context) (*link, error) {
	bound, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := s.dialer.DialContext(bound, "tcp", s.cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("the store at %s cannot be reached: %w", s.cfg.Addr, err)
	}
	if t, ok := raw.(*net.TCPConn); ok {
		if err := tcp.GiveUpOn(t, deadAfter); err != nil {
			s.log.Debug("setting the time after which a connection is dead failed", "error", err)
		}
	}
	if s.secure != nil {
		over := tls.Client(raw, s.secure)
		if err := over.HandshakeContext(bound); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("TLS with the store at %s: %w", s.cfg.Addr, err)
		}
		raw = over
	}
	l := &link{Conn: &Conn{Conn: raw, Name: fmt.Sprintf("%s%s:%s:%d", namePrefix, s.cfg.Node, s.instance, s.serial.Add(1))}, in: bufio.NewReader(raw)}
	if err := s.introduce(ctx, l); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return l, nil
}

// introduce authenticates and names a connection, and learns its number.
func (s *Store) introduce(ctx context.Context, l *link) error {
	password, err := s.cfg.password()
	if err != nil {
		return err
	}
	var hello [][]string
	switch {
	case s.cfg.User != "":
		hello = append(hello, []string{"AUTH", s.cfg.User, password})
	case password != "":
		hello = append(hello, []string{"AUTH", password})
	}
	hello = append(hello, []string{"CLIENT", "SETNAME", l.Name}, []string{"CLIENT", "ID"})
	replies, err := l.askAll(ctx, hello...)
	if err != nil {
		return err
	}
	for i, r := range replies {
		if err := refused(r, hello[i]); err != nil {
			return err
		}
	}
	last := replies[len(replies)-1]
	if last.Kind != ':' {
		return fmt.Errorf("the store answered CLIENT ID with %q; a gate needs a store that numbers its connections", last.Text)
	}
	l.ID = last.Int
	return nil
}

// Dial makes a connection that is ready for use. The lock is looked at after the connection has its name; where it is another
// gate's, the error is that of [Store.Lost], for good.
func (s *Store) Dial(ctx context.Context) (*Conn, error) {
	l, err := s.link(ctx)
	if err != nil {
		return nil, err
	}
	if n := l.in.Buffered(); n > 0 {
		_ = l.Close()
		return nil, fmt.Errorf("the store sent %d bytes that nobody had asked for", n)
	}
	return l.Conn, nil
}

// link is Dial for the gate's own commands.
func (s *Store) link(ctx context.Context) (*link, error) {
	if err := s.LostError(); err != nil {
		return nil, err
	}
	l, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	err = s.checkLock(ctx, l)
	if err == nil {
		err = l.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// Unblock has the command that a connection waits in return at once with an error, UNBLOCKED. It is no error if none waits.
func (s *Store) Unblock(ctx context.Context, c *Conn) error {
	_, err := s.Ask(ctx, "CLIENT", "UNBLOCK", strconv.FormatInt(c.ID, 10), "ERROR")
	return err
}
