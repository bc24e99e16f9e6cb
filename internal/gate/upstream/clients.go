package upstream

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// client is a line of CLIENT LIST.
type client struct {
	id         int64
	addr, name string
}

// parseClients reads CLIENT LIST.
func parseClients(text string) ([]client, error) {
	var all []client
	for line := range strings.Lines(text) {
		c := client{id: -1}
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			switch name {
			case "id":
				id, err := strconv.ParseInt(value, 10, 64)
				if err != nil {
					return nil, fmt.Errorf("CLIENT LIST has the line %.200q, whose id is no number", line)
				}
				c.id = id
			case "addr":
				c.addr = value
			case "name":
				c.name = value
			}
		}
		if c.id < 0 {
			if strings.TrimSpace(line) == "" {
				continue
			}
			return nil, fmt.Errorf("CLIENT LIST has the line %.200q, which has no id", line)
		}
		all = append(all, c)
	}
	return all, nil
}

// listClients returns those of the store's connections that are chosen.
func listClients(ctx context.Context, l *link, chosen func(client) bool) ([]client, error) {
	reply, err := l.ask(ctx, "CLIENT", "LIST")
	if err != nil {
		return nil, err
	}
	all, err := parseClients(reply.Text)
	if err != nil {
		return nil, err
	}
	var out []client
	for _, c := range all {
		if chosen(c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// end kills the chosen connections and returns when the store shows none of them any more: what they had sent and was not
// executed then never is. It returns how many were killed.
func (s *Store) end(ctx context.Context, l *link, chosen func(client) bool) (int, error) {
	killed := 0
	for pause := goneFirst; ; pause = min(2*pause, goneLast) {
		left, err := listClients(ctx, l, chosen)
		if err != nil || len(left) == 0 {
			return killed, err
		}
		for _, c := range left {
			reply, err := l.ask(ctx, "CLIENT", "KILL", "ID", strconv.FormatInt(c.id, 10))
			if err != nil {
				return killed, err
			}
			killed += int(reply.Int)
		}
		if err := wait(ctx, pause); err != nil {
			return killed, fmt.Errorf("connection %d (%s, named %s) still lives at the store, though it was killed: %w", left[0].id, left[0].addr, left[0].name, err)
		}
	}
}

// The pauses between two looks whether killed connections are gone, which they are at the first as a rule.
const (
	goneFirst = time.Millisecond
	goneLast  = 100 * time.Millisecond
)

// ofOthers chooses the connections of every gate process but this one. That they are of another node is no reason to spare
// them: the lock is ours.
func (s *Store) ofOthers(c client) bool {
	if !strings.HasPrefix(c.name, namePrefix) {
		return false
	}
	return !strings.HasPrefix(c.name, fmt.Sprintf("%s%s:%s:", namePrefix, s.cfg.Node, s.instance))
}

// Gone ends a connection at the store, and returns nil when the store shows it no more: nothing that was sent on it will
// execute from then on. It tries until ctx ends, whatever the store says, unless the store is lost.
func (s *Store) Gone(ctx context.Context, c *Conn) error {
	_ = c.Close()
	return s.patiently(ctx, func(error) bool { return s.LostError() == nil }, func() error {
		return s.with(ctx, func(l *link) error {
			_, err := s.end(ctx, l, func(seen client) bool { return seen.name == c.Name })
			return err
		})
	})
}
