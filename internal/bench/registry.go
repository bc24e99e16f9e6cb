package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/freeport"
)

// servers is how many members each system has.
const servers = 3

// registry is three of our servers.
type registry struct {
	group
	urls   []string
	resps  []string // host:port for Redis clients
	pprofs []string // host:port for profiles
	leader int      // of urls
}

// defaultTiming is the timing that servers have by default.
const defaultTiming = "default"

// startRegistry starts three servers below dir and waits until all are ready.
func startRegistry(ctx context.Context, dir, bin, timing string) (*registry, error) {
	addrs, err := freeport.Addrs(4 * servers)
	if err != nil {
		return nil, err
	}
	var peers []string
	for i := range servers {
		peers = append(peers, fmt.Sprintf("s%d=%s", i+1, addrs[i]))
	}
	r := &registry{}
	for i := range servers {
		id, http, resp, pprof := fmt.Sprintf("s%d", i+1), addrs[servers+i], addrs[2*servers+i], addrs[3*servers+i]
		err := r.group.start(dir, "server-"+id, bin, "serve", "--id", id, "--data-dir", filepath.Join(dir, id),
			"--cluster", strings.Join(peers, ","), "--http", http, "--resp", resp, "--pprof", pprof, "--log-level", "warn", "--timing", timing)
		if err != nil {
			return nil, errors.Join(err, r.stop())
		}
		r.urls, r.resps, r.pprofs = append(r.urls, "http://"+http), append(r.resps, resp), append(r.pprofs, pprof)
	}
	if err := r.wait(ctx, "three servers to be ready", r.ready); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	if r.leader, err = r.findLeader(ctx); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// startAll starts all again that were stopped, and finds who leads then.
func (r *registry) startAll(ctx context.Context) (err error) {
	for _, p := range r.group {
		if err := p.Start(); err != nil {
			return err
		}
	}
	if err := r.wait(ctx, "all servers to be ready", r.ready); err != nil {
		return err
	}
	r.leader, err = r.findLeader(ctx)
	return err
}

// restartAll stops all servers, which leave snapshots, and starts them again.
func (r *registry) restartAll(ctx context.Context) error {
	for _, p := range r.group {
		if err := p.Stop(); err != nil {
			return err
		}
	}
	return r.startAll(ctx)
}

func (r *registry) ready(ctx context.Context) error {
	for _, u := range r.urls {
		if err := healthy(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

func healthy(ctx context.Context, url string) error {
	c := client.New([]string{url})
	defer c.Close()
	return c.Health(ctx)
}

// findLeader is the place of the leader in urls.
func (r *registry) findLeader(ctx context.Context) (int, error) {
	c := client.New(r.urls)
	defer c.Close()
	status, err := c.Cluster(ctx, false)
	if err != nil {
		return 0, err
	}
	for i := range r.urls {
		if status.Leader == fmt.Sprintf("s%d", i+1) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("the leader is %q, none of the %d servers", status.Leader, servers)
}

// sameLeader is an error when another server leads than at the start: what was
// measured then is of both, and of an election.
func (r *registry) sameLeader(ctx context.Context) error {
	now, err := r.findLeader(ctx)
	if err == nil && now != r.leader {
		err = fmt.Errorf("server s%d led at the start and s%d at the end: the machine was too busy for an undisturbed run; repeat it", r.leader+1, now+1)
	}
	return err
}

// follower is the place of one that does not lead.
func (r *registry) follower() int { return (r.leader + 1) % servers }
