package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// The changes that mirrors follow are those of a node's address, which carries their number: a mirror shows it when it
// routes a key of a scope of that node.

// numbered is an address with a number in it.
func numbered(seq uint64) string { return fmt.Sprintf("change-%d:1", seq) }

// numberOf is the number in an address that numbered made, 0 if it is another.
func numberOf(addr string) uint64 {
	text, _ := strings.CutSuffix(addr, ":1")
	text, _ = strings.CutPrefix(text, "change-")
	seq, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return seq
}

// declareNumbered declares a node with number 0, and a scope of it by the same name, in which the key lies that is
// returned.
func declareNumbered(ctx context.Context, c *client.Client, node string) (key []byte, index uint64, err error) {
	if _, err := c.SetNode(ctx, api.Node{ID: node, Addr: numbered(0)}); err != nil {
		return nil, 0, err
	}
	declared, err := c.Declare(ctx, scope.Prefix(node+":"), api.Declare{Writer: node}, 0)
	return []byte(node + ":key"), declared.Index, err
}

// follow tells seen of each number that the mirror shows, until ctx ends.
func follow(ctx context.Context, m *client.Mirror, key []byte, seen func(seq uint64)) error {
	var last uint64
	for {
		newer := m.Changed()
		if seq := numberOf(m.Route(key, "").Addr); seq > last {
			last = seq
			seen(seq)
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// probe is a node whose address is changed, with a mirror that follows it.
type probe struct {
	c     *client.Client
	node  string
	seq   uint64
	end   context.CancelFunc
	ended sync.WaitGroup
	mu    sync.Mutex // guards want and at
	want  uint64
	at    chan time.Time // gets when the number wanted was seen
}

func startProbe(ctx context.Context, c *client.Client, node string) (*probe, error) {
	key, index, err := declareNumbered(ctx, c, node)
	if err != nil {
		return nil, err
	}
	m, err := c.NewMirror(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.WaitIndex(ctx, index); err != nil {
		m.Close()
		return nil, err
	}
	ctx, end := context.WithCancel(ctx)
	p := &probe{c: c, node: node, end: end}
	p.ended.Go(func() {
		defer m.Close()
		_ = follow(ctx, m, key, func(seq uint64) { p.saw(seq, time.Now()) }) // until stop
	})
	return p, nil
}

func (p *probe) stop() {
	p.end()
	p.ended.Wait()
}

func (p *probe) saw(seq uint64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq == p.want {
		p.at <- at
	}
}

// expect begins to wait for the next change.
func (p *probe) expect() <-chan time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	p.want, p.at = p.seq, make(chan time.Time, 1)
	return p.at
}

// change makes the change that is expected, and returns when it is acknowledged.
func (p *probe) change(ctx context.Context) error {
	_, err := p.c.SetNode(ctx, api.Node{ID: p.node, Addr: numbered(p.seq)})
	return err
}

func (p *probe) wait(ctx context.Context, seen <-chan time.Time) (time.Time, error) {
	select {
	case at := <-seen:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("the mirror has not shown change %d of %s: %w", p.seq, p.node, ctx.Err())
	}
}
