package respapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/tcp"
)

// Pauses after an Accept that failed for lack of something, mostly of files.
const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// Serve answers connections on ln until ctx ends. It then closes ln, ends waits
// and subscriptions at once, gives other commands up to 5 s, and closes what is
// open. It returns nil after such an end, else why accepting stopped. A Server
// serves once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	accepted := make(chan error, 1)
	go func() { accepted <- s.accept(ctx, ln) }()
	var err error
	select {
	case err = <-accepted:
	case <-ctx.Done():
		_ = ln.Close()
		s.log.Debug("accepting ended", "cause", <-accepted)
	}
	s.stop()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving the Redis protocol on %v stopped: %w", ln.Addr(), err)
}

// stop ends every connection and returns when all have ended.
func (s *Server) stop() {
	s.shutDown()
	s.eachConn(func(c *conn) { c.wake() })
	ended := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(ended)
	}()
	limit := time.NewTimer(shutdownTimeout)
	defer limit.Stop()
	select {
	case <-ended:
	case <-limit.C:
		s.log.Warn("commands were cut off, as they did not end in time", "limit", shutdownTimeout)
		s.cut()
		s.eachConn(func(c *conn) { _ = c.nc.Close() })
		<-ended
	}
	s.cut()
}

// accept admits connections until ln fails or ctx ends.
func (s *Server) accept(ctx context.Context, ln net.Listener) error {
	var pause time.Duration
	for {
		nc, err := ln.Accept()
		if err == nil {
			pause = 0
			s.admit(nc)
			continue
		}
		var passing interface{ Temporary() bool }
		if !errors.As(err, &passing) || !passing.Temporary() {
			return err
		}
		pause = min(max(2*pause, minPause), maxPause)
		s.log.Warn("a connection could not be accepted", "error", err, "next", pause)
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-wait.C:
		}
	}
}

// admit serves a connection, or refuses it if there is no room.
func (s *Server) admit(nc net.Conn) {
	if s.certs != nil {
		nc = tls.Server(nc, s.certs.Listen(s.certsRequired)) // the handshake is the connection's own goroutine's
	} else if plain, ok := nc.(*net.TCPConn); ok {
		nc = tcp.Raw(plain)
	}
	c, evicted := s.enter(nc)
	if evicted != nil {
		s.refuse(evicted.nc, "evicted", "this connection was nobody's, or had sent no command yet, and made room for another one, as this server has")
	}
	if c == nil {
		s.refuse(nc, "limit", "this server has")
		return
	}
	s.serving.Go(c.serve)
}

// enter makes the connection one of those that are served. At the limit it
// takes the place of another one, see makesRoom; without such a one there is no
// room, and c is nil.
func (s *Server) enter(nc net.Conn) (c, evicted *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= MaxConns {
		if evicted = s.makesRoom(); evicted == nil {
			return nil, nil
		}
		s.remove(evicted)
	}
	s.lastID++
	c = newConn(s, nc, s.lastID)
	s.conns[c] = struct{}{}
	c.silent = s.silent.PushBack(c)
	s.metrics.connections.Inc()
	return c, evicted
}

// makesRoom is the oldest connection that never sent a whole command or was
// always nobody's, else the oldest one that has become nobody's since: its token
// was revoked, or the first one was made. It is nil if there is none. s.mu is held.
func (s *Server) makesRoom() (oldest *conn) {
	if front := s.silent.Front(); front != nil {
		oldest, _ = front.Value.(*conn)
		return oldest
	}
	for c := range s.conns {
		if (oldest == nil || c.id < oldest.id) && c.caller().who.Role == access.Nobody {
			oldest = c
		}
	}
	return oldest
}

// hold counts the connection for who gives its commands from now on, or says
// that he has too many. Whoever is not known is not counted.
func (s *Server) hold(c *conn, who access.Who) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return nil // it has made room for another one
	}
	known := who.Role != access.Nobody && who.Role != access.Anonymous
	if known && s.held[who] >= MaxConnsEach {
		return &api.Error{Code: api.Limit, Detail: fmt.Sprintf("%s has %d connections to this server, which is the limit for one caller; close some, or use another server", who, MaxConnsEach)}
	}
	s.letGo(c)
	if known {
		s.held[who]++
		c.heldBy = who
	}
	return nil
}

// letGo ends that the connection is counted for somebody. s.mu is held.
func (s *Server) letGo(c *conn) {
	if c.heldBy == (access.Who{}) {
		return
	}
	if s.held[c.heldBy]--; s.held[c.heldBy] == 0 {
		delete(s.held, c.heldBy)
	}
	c.heldBy = access.Who{}
}

// remove takes a connection out of the books. s.mu is held. A second time does
// nothing.
func (s *Server) remove(c *conn) {
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	s.letGo(c)
	if c.silent != nil {
		s.silent.Remove(c.silent)
		c.silent = nil
	}
	s.metrics.connections.Dec()
}

// spoke notes that the connection sent a whole command and so does not make
// room for others. It is false if it has made room already.
func (s *Server) spoke(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.silent == nil {
		return false
	}
	s.silent.Remove(c.silent)
	c.silent = nil
	return true
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(c)
}

func (s *Server) connsLen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// eachConn calls do for every connection, outside the lock.
func (s *Server) eachConn(do func(*conn)) {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		do(c)
	}
}

// refuse answers without reading. All of it is best effort: it must not hold up
// the next connection.
func (s *Server) refuse(nc net.Conn, reason, why string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	if under, ok := nc.(*tls.Conn); ok { // a word under TLS, and be it that of its end, would wait for the other side
		_ = under.NetConn().Close()
		return
	}
	_ = nc.SetWriteDeadline(time.Now().Add(refusalTimeout))
	_, _ = fmt.Fprintf(nc, "-LIMIT %s %d connections, which is the limit; use another server, or close some\r\n", why, MaxConns)
	_ = nc.Close()
}

// linger lets a client read why it is refused: closing while it still sends
// would reset the connection, and the answer would be lost on the way.
func linger(nc net.Conn) {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		_ = nc.SetReadDeadline(time.Now().Add(lingerTimeout))
		_, _ = io.Copy(io.Discard, io.LimitReader(nc, maxLinger))
	}
}
