package main

import (
	"context"

	"github.com/scope-registry/scope-registry/client"
)

// firstWatched is the first of the nodes of part mirrors, one for each way to change and follow it; those of part commits come before.
const firstWatched = 5000

// mirrored is our registry as one of the systems.
type mirrored struct {
	*registry
	by      string
	through changer // connected to the leader
	node    int
	key     []byte
	index   uint64 // that shows the node and its scope
	watches bool   // watchers follow the changes, as those of etcd do; else each is a mirror, which keeps a table too
}

func newClient(url string) *client.Client { return client.New([]string{url}) }

// newMirrored is the registry with a node that is changed one way, and followed by mirrors.
func newMirrored(ctx context.Context, r *registry, way *committing, node int) (*mirrored, error) {
	m := &mirrored{registry: r, by: way.name, node: node}
	c := newClient(r.urls[r.leader])
	defer c.Close()
	var err error
	if m.key, m.index, err = declareNumbered(ctx, c, changedID(node)); err != nil {
		return nil, err
	}
	m.through, err = way.connect(ctx)
	return m, err
}

func (m *mirrored) name() string { return m.by }

// stop leaves the servers to who started them.
func (m *mirrored) stop() error { return m.through.close() }

func (m *mirrored) change(ctx context.Context, seq uint64) error {
	return m.through.change(ctx, m.node, numbered(seq))
}

func (m *mirrored) watch(ctx context.Context, i int, live func(), seen func(seq uint64)) error {
	c := client.New([]string{m.urls[i%servers]})
	defer c.Close()
	if m.watches {
		return m.read(c.Watch(ctx, 0), live, seen)
	}
	mirror, err := c.NewMirror(ctx)
	if err != nil {
		return err
	}
	defer mirror.Close()
	if err := mirror.WaitIndex(ctx, m.index); err != nil {
		return err
	}
	live()
	return follow(ctx, mirror, m.key, seen)
}

// read tells of the changes of its node that a watch returns, until that ends.
func (m *mirrored) read(w *client.Watch, live func(), seen func(seq uint64)) error {
	defer w.Close()
	node := changedID(m.node)
	for on := false; ; {
		item, err := w.Next()
		if err != nil {
			return err
		}
		if !on && !item.More { // the snapshot it begins with is complete
			on = true
			live()
		}
		for _, c := range item.Changes {
			if on && c.Node != nil && c.Node.ID == node {
				seen(numberOf(c.Node.Addr))
			}
		}
	}
}
