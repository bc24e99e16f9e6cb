// Package crash runs clusters of real server processes on loopback, kills them
// without notice, and asks them what they still know. Its tests show that
// nothing acknowledged is lost; the demo is built on it too.
package crash

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/direct"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/process"
)

// Bounds of the harness.
const (
	// Size is the number of servers: the smallest number that survives the loss of one.
	Size = 3
	// pollEvery is the pause between two questions of Wait: short against an election.
	pollEvery = 20 * time.Millisecond
	// callTime bounds one request, so that a server that hangs is noticed.
	callTime = 10 * time.Second
)

type server struct {
	*process.Program
	api *direct.Server
	// host:port each
	http, resp string
	data       string // directory
	index      uint64 // highest index a good reply carried
}

// log is the file with all that the server has printed.
func (s *server) log() string { return s.data + ".log" }

// files are those of somebody, none without TLS.
func (cfg Config) files(w access.Who) certs.Files {
	if cfg.Certs == "" {
		return certs.Files{}
	}
	return cfg.Certs.Files(w)
}

// flags are what a server and the command line take of files.
func flags(f certs.Files) []string {
	if f.None() {
		return nil
	}
	return []string{"--cacert", f.CA, "--cert", f.Cert, "--key", f.Key}
}

// Cluster is three server processes with fresh data directories. It is safe
// for use by many goroutines.
type Cluster struct {
	removes string // directory that Close removes, unless ""
	ids     []string
	servers map[string]*server
	flags   []string
	mu      sync.Mutex // guards the index of all servers
}

// Config is what a cluster is made of.
type Config struct {
	// Bin is the path of the server's binary.
	Bin string
	// Dir is where data and logs go, and stay; "" is a directory of their own that Close removes.
	Dir string
	// Timing is the servers' --timing; "" is fast.
	Timing string
	// Certs is a directory with certificates of an admin and of all servers, as `certs init` makes them, with which the
	// servers run under TLS; "" is without.
	Certs certs.Dir
	// Front may be nil. It returns what the other servers dial, host:port, to reach the server id, which listens at the
	// address listen.
	Front func(id, listen string) (string, error)
}

// Open starts the servers s1, s2 and s3 and returns without waiting until they are
// ready. Close ends them.
func Open(cfg Config) (*Cluster, error) {
	path, err := filepath.Abs(cfg.Bin)
	if err != nil {
		return nil, fmt.Errorf("path of the server binary %q: %w", cfg.Bin, err)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("server binary: %w; build it with: make build", err)
	}
	c := &Cluster{servers: map[string]*server{}}
	if cfg.Bin = path; cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "scope-registry-*"); err != nil {
			return nil, err
		}
		c.removes = cfg.Dir
	}
	if err := c.open(cfg); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) open(cfg Config) error {
	addrs, err := freeport.Addrs(3 * Size)
	if err != nil {
		return err
	}
	admin := cfg.files(access.Who{Role: access.Admin})
	own, err := certs.OpenClient(admin, nil)
	if err != nil {
		return err
	}
	c.flags = flags(admin)
	scheme := "http://"
	if !admin.None() {
		scheme = "https://"
	}
	var peers []string
	for i := range Size {
		c.ids = append(c.ids, fmt.Sprintf("s%d", i+1))
		s := &server{http: addrs[3*i+1], resp: addrs[3*i+2], data: filepath.Join(cfg.Dir, c.ids[i])}
		s.api = direct.New(c.ids[i], scheme+s.http, own.Client())
		c.servers[c.ids[i]] = s
		dialed := addrs[3*i]
		if cfg.Front != nil {
			if dialed, err = cfg.Front(c.ids[i], addrs[3*i]); err != nil {
				return err
			}
		}
		peers = append(peers, c.ids[i]+"="+dialed)
	}
	for i, id := range c.ids {
		s := c.servers[id]
		args := append([]string{"serve", "--id", id, "--data-dir", s.data, "--cluster", strings.Join(peers, ","),
			"--peer", addrs[3*i], "--http", s.http, "--resp", s.resp, "--timing", cmp.Or(cfg.Timing, "fast")}, flags(cfg.files(access.Who{Role: access.Server, ID: id}))...)
		s.Program = process.New("server "+id, s.log(), cfg.Bin, args...)
		if err := os.MkdirAll(s.data, 0o700); err != nil {
			return err
		}
	}
	return c.StartAll()
}

// IDs returns the ids of the servers, in order.
func (c *Cluster) IDs() []string { return append([]string(nil), c.ids...) }

// Endpoints is what the command line takes as --endpoints: the HTTP addresses of all servers.
func (c *Cluster) Endpoints() string {
	var all []string
	for _, id := range c.ids {
		all = append(all, c.servers[id].api.URL())
	}
	return strings.Join(all, ",")
}

// Flags are what the command line takes to show an admin's certificate, where the cluster is under TLS.
func (c *Cluster) Flags() []string { return slices.Clone(c.flags) }

// HTTP is the HTTP address of a server as host:port.
func (c *Cluster) HTTP(id string) string { return c.servers[id].http }

// DataDir is the data directory of a server.
func (c *Cluster) DataDir(id string) string { return c.servers[id].data }

// Log is the file with all that a server has printed over all its runs.
func (c *Cluster) Log(id string) string { return c.servers[id].log() }

// RESP is the Redis-protocol address of a server as host:port.
func (c *Cluster) RESP(id string) string { return c.servers[id].resp }

// Start starts a server that does not run, on the data it had.
func (c *Cluster) Start(id string) error { return c.do(id, (*process.Program).Start) }

// StartAll starts every server that does not run.
func (c *Cluster) StartAll() error {
	for _, id := range c.ids {
		if !c.Running(id) {
			if err := c.Start(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Running says whether a server was started and not ended by Kill or Stop.
func (c *Cluster) Running(id string) bool { return c.servers[id].Running() }

// Kill ends a server with SIGKILL and returns when the process is gone.
func (c *Cluster) Kill(id string) error { return c.do(id, (*process.Program).Kill) }

// Stop ends a server with SIGTERM and returns when the process is gone; it is
// an error if it exits with another code than 0 or has to be killed.
func (c *Cluster) Stop(id string) error { return c.do(id, (*process.Program).Stop) }

func (c *Cluster) do(id string, what func(*process.Program) error) error {
	s, ok := c.servers[id]
	if !ok {
		return fmt.Errorf("server %q is none of %v", id, c.ids)
	}
	return what(s.Program)
}

// Program is the server, to be started and ended.
func (c *Cluster) Program(id string) *process.Program { return c.servers[id].Program }

// Crashed is an error when a server has ended that nobody ended.
func (c *Cluster) Crashed() error {
	for _, id := range c.ids {
		if err := c.servers[id].Crashed(); err != nil {
			return err
		}
	}
	return nil
}

// Logs is the end of what a server has logged over all its runs.
func (c *Cluster) Logs(id string) string { return c.servers[id].Logs() }

// Close ends all servers together, with SIGKILL those that do not end by
// themselves, and removes their data and logs.
func (c *Cluster) Close() error {
	errs := make([]error, len(c.ids))
	var all sync.WaitGroup
	for i, id := range c.ids {
		if p := c.servers[id].Program; p != nil {
			all.Go(func() { errs[i] = p.Close() })
		}
	}
	all.Wait()
	for _, s := range c.servers {
		s.api.Close()
	}
	if c.removes != "" {
		errs = append(errs, os.RemoveAll(c.removes))
	}
	return errors.Join(errs...)
}
