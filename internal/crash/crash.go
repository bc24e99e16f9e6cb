// Package crash runs clusters of real server processes on loopback, kills them
// without notice, and asks them what they still know. Its tests show that
// nothing acknowledged is lost; the demo is built on it too.
package crash

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of the harness.
const (
	// Size is the number of servers: the smallest number that survives the loss of one.
	Size = 3
	// stopTime is what a server gets to end after SIGTERM, a snapshot of a large state included.
	stopTime = 15 * time.Second
	// pollEvery is the pause between two questions of Wait: short against an election.
	pollEvery = 20 * time.Millisecond
	// callTime bounds one request, so that a server that hangs is noticed.
	callTime = 10 * time.Second
	// logTail is how much of a server's log Logs returns, in bytes.
	logTail = 8 << 10
)

// process is one run of a server.
type process struct {
	cmd    *exec.Cmd
	log    *os.File
	ended  chan struct{} // closed after the process was waited for
	wanted bool          // its end was asked for
}

type server struct {
	id, dir string
	// host:port each
	peer, http, resp string
	run              *process
	index            uint64 // highest index a good reply carried
}

// Cluster is three server processes with fresh data directories. It is safe
// for use by many goroutines.
type Cluster struct {
	bin, dir string
	client   *http.Client
	ids      []string
	mu       sync.Mutex // guards run and index of all servers
	servers  map[string]*server
}

// Open starts the servers s1, s2 and s3 of the binary bin and returns without
// waiting until they are ready. Close ends them and removes their data.
func Open(bin string) (*Cluster, error) {
	path, err := filepath.Abs(bin)
	if err != nil {
		return nil, fmt.Errorf("path of the server binary %q: %w", bin, err)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("server binary: %w; build it with: make build", err)
	}
	dir, err := os.MkdirTemp("", "scope-registry-*")
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: path, dir: dir, servers: map[string]*server{},
		client: &http.Client{Timeout: callTime, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	addrs, err := freeAddrs(3 * Size)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for i := range Size {
		id := fmt.Sprintf("s%d", i+1)
		c.ids = append(c.ids, id)
		c.servers[id] = &server{id: id, dir: filepath.Join(dir, id), peer: addrs[3*i], http: addrs[3*i+1], resp: addrs[3*i+2]}
	}
	if err := c.StartAll(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// freeAddrs returns n addresses that nobody listened on a moment ago. All are
// held until the last is known, so that they differ.
func freeAddrs(n int) ([]string, error) {
	var out []string
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close() // never accepted anything
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("no free port on 127.0.0.1: %w", err)
		}
		held = append(held, l)
		out = append(out, l.Addr().String())
	}
	return out, nil
}

// IDs returns the ids of the servers, in order.
func (c *Cluster) IDs() []string { return append([]string(nil), c.ids...) }

// Endpoints is what the command line takes as --endpoints: the HTTP addresses of all servers.
func (c *Cluster) Endpoints() string {
	var all []string
	for _, id := range c.ids {
		all = append(all, "http://"+c.servers[id].http)
	}
	return strings.Join(all, ",")
}

// HTTP is the HTTP address of a server as host:port.
func (c *Cluster) HTTP(id string) string { return c.servers[id].http }

// RESP is the Redis-protocol address of a server as host:port.
func (c *Cluster) RESP(id string) string { return c.servers[id].resp }

// Start starts a server that does not run, on the data it had.
func (c *Cluster) Start(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.servers[id]
	if !ok {
		return fmt.Errorf("server %q is none of %v", id, c.ids)
	}
	if s.run != nil {
		return fmt.Errorf("server %s runs already as process %d; kill it first", id, s.run.cmd.Process.Pid)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(c.logPath(id), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var peers []string
	for _, other := range c.ids {
		peers = append(peers, other+"="+c.servers[other].peer)
	}
	cmd := exec.Command(c.bin, "serve", "--id", id, "--data-dir", s.dir, "--cluster", strings.Join(peers, ","),
		"--peer", s.peer, "--http", s.http, "--resp", s.resp, "--timing", "fast")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("server %s did not start: %w", id, err), log.Close())
	}
	p := &process{cmd: cmd, log: log, ended: make(chan struct{})}
	s.run = p
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()  // how it ended is in cmd.ProcessState
		_ = log.Close() // the process wrote it, not we
	}()
	return nil
}

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
func (c *Cluster) Running(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[id].run != nil
}

// Kill ends a server with SIGKILL and returns when the process is gone.
func (c *Cluster) Kill(id string) error { return c.end(id, os.Kill) }

// Stop ends a server with SIGTERM and returns when the process is gone; it is
// an error if it exits with another code than 0 or has to be killed.
func (c *Cluster) Stop(id string) error { return c.end(id, syscall.SIGTERM) }

func (c *Cluster) end(id string, sig os.Signal) error {
	c.mu.Lock()
	s, ok := c.servers[id]
	if !ok || s.run == nil {
		c.mu.Unlock()
		return fmt.Errorf("server %q does not run", id)
	}
	p := s.run
	p.wanted = true
	c.mu.Unlock()
	select {
	case <-p.ended:
		c.gone(s)
		return fmt.Errorf("server %s had ended by itself: %v\n%s", id, p.cmd.ProcessState, c.Logs(id))
	default:
	}
	err := p.cmd.Process.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		err = errors.Join(err, fmt.Errorf("server %s still ran %v after %v", id, stopTime, sig), p.cmd.Process.Kill())
		<-p.ended
	}
	c.gone(s)
	if err == nil && sig != os.Kill && p.cmd.ProcessState.ExitCode() != 0 {
		err = fmt.Errorf("server %s answered %v with %v\n%s", id, sig, p.cmd.ProcessState, c.Logs(id))
	}
	return err
}

func (c *Cluster) gone(s *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.run = nil
}

// Crashed is an error when a server has ended that nobody ended.
func (c *Cluster) Crashed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.ids {
		p := c.servers[id].run
		if p == nil || p.wanted {
			continue
		}
		select {
		case <-p.ended:
			return fmt.Errorf("server %s ended by itself: %v\n%s", id, p.cmd.ProcessState, c.Logs(id))
		default:
		}
	}
	return nil
}

func (c *Cluster) logPath(id string) string { return filepath.Join(c.dir, id+".log") }

// Logs is the end of what a server has logged over all its runs.
func (c *Cluster) Logs(id string) string {
	data, err := os.ReadFile(c.logPath(id))
	if err != nil {
		return "no log: " + err.Error()
	}
	return string(data[max(0, len(data)-logTail):])
}

// Close ends all servers together, with SIGKILL those that do not end by
// themselves, and removes their data and logs.
func (c *Cluster) Close() error {
	errs := make([]error, len(c.ids))
	var all sync.WaitGroup
	for i, id := range c.ids {
		if c.Running(id) {
			all.Go(func() { errs[i] = c.Stop(id) })
		}
	}
	all.Wait()
	c.client.CloseIdleConnections()
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

// Pause waits for d, or until ctx is done and then returns its error.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
