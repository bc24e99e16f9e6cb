package main

import (
	"context"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// watchedNode is the node whose address the changes are of.
const watchedNode = "watched"

// mirrored is our registry as one of the systems: its watchers are mirrors.
type mirrored struct {
	*registry
	through *client.Client // connected to the leader
	key     []byte
	index   uint64 // that shows the node and its scope
}

func newClient(url string) *client.Client { return client.New([]string{url}) }

func newMirrored(ctx context.Context, r *registry) (*mirrored, error) {
	m := &mirrored{registry: r, through: newClient(r.urls[r.leader])}
	var err error
	if m.key, m.index, err = declareNumbered(ctx, m.through, watchedNode); err != nil {
		m.through.Close()
		return nil, err
	}
	return m, nil
}

func (m *mirrored) name() string { return "scope-registry" }

// stop leaves the servers to who started them.
func (m *mirrored) stop() error {
	m.through.Close()
	return nil
}

func (m *mirrored) change(ctx context.Context, seq uint64) error {
	_, err := m.through.SetNode(ctx, api.Node{ID: watchedNode, Addr: numbered(seq)})
	return err
}

func (m *mirrored) watch(ctx context.Context, i int, live func(), seen func(seq uint64)) error {
	c := client.New([]string{m.urls[i%servers]})
	defer c.Close()
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
