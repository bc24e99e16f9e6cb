package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/scope-registry/scope-registry/internal/freeport"
)

// etcdKey is what the watchers of etcd follow.
const etcdKey = "bench"

// etcd is three members of etcd, with fsync, as it is by default.
type etcd struct {
	group
	version string
	urls    []string
	lead    int              // place in urls of the leader
	leader  *clientv3.Client // connected to it
}

// startEtcds starts three members of each etcd that is named. It returns those that
// run, also with an error.
func startEtcds(ctx context.Context, o options, dir string) (all []*etcd, err error) {
	for i, bin := range o.etcd {
		version, err := etcdVersion(ctx, bin)
		if err != nil {
			return all, err
		}
		home := filepath.Join(dir, fmt.Sprintf("etcd-%d", i))
		if err := os.Mkdir(home, 0o700); err != nil {
			return all, err
		}
		e, err := startEtcd(ctx, home, bin, version)
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

// startEtcd starts three members below dir and waits until they have a leader.
func startEtcd(ctx context.Context, dir, bin, version string) (*etcd, error) {
	addrs, err := freeport.Addrs(2 * servers)
	if err != nil {
		return nil, err
	}
	var all []string
	for i := range servers {
		all = append(all, fmt.Sprintf("m%d=http://%s", i+1, addrs[i]))
	}
	e := &etcd{version: version}
	for i := range servers {
		id, peer, url := fmt.Sprintf("m%d", i+1), "http://"+addrs[i], "http://"+addrs[servers+i]
		err := e.group.start(dir, "etcd-"+id, bin, "--name", id, "--data-dir", filepath.Join(dir, id),
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--listen-client-urls", url, "--advertise-client-urls", url,
			"--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "warn")
		if err != nil {
			return nil, errors.Join(err, e.stop())
		}
		e.urls = append(e.urls, url)
	}
	if err := e.wait(ctx, "three members of etcd to have a leader", e.findLeader); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return e, nil
}

// dial is a client with a connection of its own to one member.
func (e *etcd) dial(member int) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{e.urls[member%servers]}, DialTimeout: startTime, Logger: zap.NewNop()})
}

func (e *etcd) findLeader(ctx context.Context) error {
	for i := range e.urls {
		c, err := e.dial(i)
		if err != nil {
			return err
		}
		status, err := c.Status(ctx, e.urls[i])
		switch {
		case err == nil && status.Leader == status.Header.MemberId:
			e.lead, e.leader = i, c
			return nil
		case err == nil && status.Leader == 0:
			err = fmt.Errorf("member %s knows no leader", e.urls[i])
		}
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return errors.New("no member leads")
}

// sameLeader is an error when the leader of the start does not lead any more.
func (e *etcd) sameLeader(ctx context.Context) error {
	status, err := e.leader.Status(ctx, e.urls[e.lead])
	if err == nil && status.Leader != status.Header.MemberId {
		err = fmt.Errorf("member m%d of %s led at the start and does not at the end: the machine was too busy for an undisturbed run; repeat it", e.lead+1, e.name())
	}
	return err
}

func (e *etcd) stop() error {
	var err error
	if e.leader != nil {
		err = e.leader.Close()
	}
	return errors.Join(err, e.group.stop())
}

func (e *etcd) name() string { return "etcd " + e.version }

func (e *etcd) change(ctx context.Context, seq uint64) error {
	_, err := e.leader.Put(ctx, etcdKey, strconv.FormatUint(seq, 10))
	return err
}

// watch is one watcher: live is closed when it is on.
func (e *etcd) watch(ctx context.Context, i int, live func(), seen func(seq uint64)) error {
	c, err := e.dial(i)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // its connection is of no use any more
	for r := range c.Watch(ctx, etcdKey, clientv3.WithCreatedNotify()) {
		if err := r.Err(); err != nil {
			return err
		}
		if r.Created {
			live()
		}
		for _, event := range r.Events {
			seq, err := strconv.ParseUint(string(event.Kv.Value), 10, 64)
			if err != nil {
				return fmt.Errorf("etcd sent %q, which was never put: %w", event.Kv.Value, err)
			}
			seen(seq)
		}
	}
	return ctx.Err()
}
