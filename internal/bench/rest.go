package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
)

// rests measures what a cluster costs that nobody uses: by timing, beside etcd, and with more and more scopes.
func rests(ctx context.Context, r *report, o options, dir string) (err error) {
	r.line("Processor time over %v, of servers without watchers or sessions; memory as VmRSS of each server.\n", idleTime)
	r.header("system", "scopes", "at rest, of a core: leader", "each follower", "memory, MiB")
	for _, timing := range []string{"fast", "wan", defaultTiming} {
		if err := restsWith(ctx, r, timing, o, filepath.Join(dir, timing)); err != nil {
			return fmt.Errorf("timing %s: %w", timing, err)
		}
	}
	etcds, err := startEtcds(ctx, o, dir)
	defer func() {
		for _, e := range etcds {
			err = errors.Join(err, e.stop())
		}
	}()
	if err != nil {
		return err
	}
	for _, e := range etcds {
		if err := restRow(ctx, r, e.name()+", defaults", "–", e.group, e.lead); err != nil {
			return err
		}
	}
	return r.err
}

// restsWith measures servers with a timing; those with the default one also with scopes, each time after a start.
func restsWith(ctx context.Context, r *report, timing string, o options, dir string) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	ours, err := startRegistry(ctx, dir, o.bin, timing)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	name := "scope-registry, `--timing " + timing + "`"
	if err := restRow(ctx, r, name, "0", ours.group, ours.leader); err != nil || timing != defaultTiming {
		return err
	}
	c := client.New(ours.urls, client.WithTimeout(callTime))
	defer c.Close()
	if err := setOwners(ctx, c); err != nil {
		return err
	}
	declared := 0
	for _, n := range []int{min(milestone, o.scopes), o.scopes} {
		if declared == n {
			break
		}
		for ; declared < n; declared = min(declared+batchScopes, n) {
			if _, err := c.Apply(ctx, batchFrom(declared, min(declared+batchScopes, n))); err != nil {
				return err
			}
		}
		if err := ours.restartAll(ctx); err != nil {
			return err
		}
		if err := restRow(ctx, r, name, fmt.Sprint(n), ours.group, ours.leader); err != nil {
			return err
		}
	}
	return r.err
}

func restRow(ctx context.Context, r *report, name, scopes string, g group, leader int) error {
	ofLeader, ofFollower, err := idle(ctx, g, leader)
	if err != nil {
		return err
	}
	var each []string
	for _, p := range g {
		n, err := resident(p)
		if err != nil {
			return err
		}
		each = append(each, fmt.Sprintf("%.0f", mib(n)))
	}
	r.row(name, scopes, share(ofLeader), share(ofFollower), strings.Join(each, " "))
	return r.err
}

// setOwners makes the nodes that the scopes of batchFrom name.
func setOwners(ctx context.Context, c *client.Client) error {
	for _, id := range owners {
		if _, err := c.SetNode(ctx, api.Node{ID: id, Addr: "127.0.0.1:1"}); err != nil {
			return err
		}
	}
	return nil
}

// batchFrom declares the scopes with numbers from one to before another.
func batchFrom(from, to int) (b api.Batch) {
	for i := from; i < to; i++ {
		b.Scopes = append(b.Scopes, api.Declare{Prefix: fmt.Sprintf("app:%06d:", i), Writer: owners[i%len(owners)], Fallback: owners[(i+1)%len(owners)]})
	}
	return b
}
