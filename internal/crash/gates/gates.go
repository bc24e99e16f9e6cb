// Package gates runs a registry and two Redis servers with a gate each as real processes on loopback, has clients write
// through them all the time, moves scopes, ends any of the processes without notice, and says which acknowledged writes are
// gone.
package gates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/process"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// grace passes before the old copy of a scope is deleted, and the scope may come back.
	grace = 200 * time.Millisecond
	// settleTime bounds what is awaited after a fault: the end of a session of 10 s, and what follows from it, twice.
	settleTime = 45 * time.Second
)

// Config is what a rig is made of.
type Config struct {
	Bin     string // the program under test
	Redis   string // redis-server or one like it
	Dir     string // of data and logs; Close leaves it
	Writers int    // for each scope
	Pause   time.Duration
}

// Node is a Redis server with its gate.
type Node struct {
	ID          string
	Gate, Redis *process.Program
	GateAddr    string
	redisAddr   string
}

// Rig is the running system. It is for one goroutine. Close it when done.
type Rig struct {
	Config
	Servers *crash.Cluster
	Nodes   []*Node
	Tracker *rig.Tracker
	Client  *client.Client
	Work    *Work

	mirror    *client.Mirror
	stop      context.CancelFunc
	following sync.WaitGroup
	moves     int
	quiesced  []time.Duration
	aborted   int
}

// Scopes of a rig: the first is n1's at first, the second n2's.
func Scopes() []string { return []string{"orders:", "carts:"} }

// FindRedis is the path of a Redis server; the error says how to get one.
func FindRedis() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("neither redis-server nor valkey-server is on the PATH; on Debian: apt-get install redis-server")
}

// Open starts all of it, and returns when clients write to both scopes.
func Open(ctx context.Context, cfg Config) (*Rig, error) {
	servers, err := crash.Open(crash.Config{Bin: cfg.Bin, Dir: filepath.Join(cfg.Dir, "servers")})
	if err != nil {
		return nil, err
	}
	r := &Rig{Config: cfg, Servers: servers, Tracker: rig.NewTracker(func(rig.Tenure) {})}
	r.Client = client.New(strings.Split(servers.Endpoints(), ","), client.WithActor("gates"))
	if err := r.open(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Rig) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := r.Servers.WaitReady(ctx); err != nil {
		return err
	}
	for i := range Scopes() {
		if err := r.addNode(fmt.Sprintf("n%d", i+1)); err != nil {
			return err
		}
	}
	life, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.following.Go(func() { _ = r.Tracker.Follow(life, r.Client) })
	if _, err := r.Tracker.Await(ctx, "the sessions of both nodes", func(w rig.World) string {
		for _, n := range r.Nodes {
			if w.Nodes[n.ID].Session == nil {
				return n.ID + " has none"
			}
		}
		return ""
	}); err != nil {
		return r.withLogs(err)
	}
	for i, p := range Scopes() {
		if _, err := r.Client.Declare(ctx, scope.Prefix(p), api.Declare{Writer: r.Nodes[i].ID}, 0); err != nil {
			return err
		}
	}
	mirror, err := r.Client.NewMirror(ctx)
	if err != nil {
		return err
	}
	r.mirror = mirror
	r.Work = newWork(mirror, Scopes(), max(1, r.Writers), r.Pause)
	return r.written(ctx)
}

// withLogs adds what the nodes have printed.
func (r *Rig) withLogs(err error) error {
	for _, n := range r.Nodes {
		err = fmt.Errorf("%w\nlog of the gate of %s:\n%s", err, n.ID, n.Gate.Logs())
	}
	return err
}

// addNode starts a Redis server that keeps what it has acknowledged, and its gate.
func (r *Rig) addNode(id string) error {
	addrs, err := process.FreeAddrs(2)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.Dir, id)
	if err := os.MkdirAll(filepath.Join(dir, "redis"), 0o700); err != nil {
		return err
	}
	n := &Node{ID: id, GateAddr: addrs[0], redisAddr: addrs[1]}
	_, port, err := net.SplitHostPort(n.redisAddr)
	if err != nil {
		return err
	}
	n.Redis = process.New("redis of "+id, dir+"-redis.log", r.Redis, "--port", port, "--bind", "127.0.0.1", "--dir", filepath.Join(dir, "redis"),
		"--save", "", "--appendonly", "yes", "--appendfsync", "always")
	n.Gate = process.New("gate of "+id, dir+"-gate.log", r.Bin, "gate", "--node", id, "--listen", n.GateAddr, "--upstream", n.redisAddr,
		"--data-dir", filepath.Join(dir, "gate"), "--endpoints", r.Servers.Endpoints(), "--grace", grace.String())
	r.Nodes = append(r.Nodes, n)
	return errors.Join(n.Redis.Start(), n.Gate.Start())
}

// written waits until each scope takes a write that began now.
func (r *Rig) written(ctx context.Context) error {
	for _, p := range Scopes() {
		before := r.Work.Acknowledged(p)
		if err := r.Servers.Wait(ctx, "a write of "+p, func(context.Context) error {
			if r.Work.Acknowledged(p) <= before {
				return fmt.Errorf("none was acknowledged; the last said: %w", r.Work.Last(p))
			}
			return nil
		}); err != nil {
			return r.withLogs(err)
		}
	}
	return nil
}

// Node is the one with an id.
func (r *Rig) Node(id string) *Node {
	for _, n := range r.Nodes {
		if n.ID == id {
			return n
		}
	}
	return nil
}

// Crashed is an error when a process has ended that nobody ended.
func (r *Rig) Crashed() error {
	err := r.Servers.Crashed()
	for _, n := range r.Nodes {
		err = errors.Join(err, n.Redis.Crashed(), n.Gate.Crashed())
	}
	return err
}

// redis is a client of the server itself, past its gate.
func (n *Node) redis() *redis.Client { return newRedis(n.redisAddr) }

func newRedis(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialTimeout: time.Second, ReadTimeout: 5 * time.Second, DialerRetries: 1})
}

// Close ends all processes.
func (r *Rig) Close() error {
	var err error
	if r.Work != nil {
		r.Work.close()
	}
	if r.stop != nil {
		r.stop()
		r.following.Wait()
	}
	if r.mirror != nil {
		r.mirror.Close()
	}
	r.Client.Close()
	for _, n := range r.Nodes {
		err = errors.Join(err, n.Gate.Close(), n.Redis.Close())
	}
	return errors.Join(err, r.Servers.Close())
}

// Quiet keeps the Redis client from printing what it thinks of servers that are killed.
func Quiet() { redis.SetLogger(silent{}) }

type silent struct{}

func (silent) Printf(ctx context.Context, format string, v ...any) {
	slog.DebugContext(ctx, fmt.Sprintf(format, v...))
}
