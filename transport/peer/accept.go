package peer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
)

const (
	// maxHandshakes bounds the connections that are in their handshake at once. Until it is over nothing is known
	// of the other side, which may be a port scanner that stays silent. One more ends another, see crowd.
	maxHandshakes = 64
	// maxPerPeer bounds the connections of one server. Raft keeps up to four and one is for calls; the rest is for
	// those a paused or cut off server left behind and whose end is not noticed yet.
	maxPerPeer = 16
	// maxAccepted bounds the accepted connections of all servers: enough for a full house of 16 servers.
	maxAccepted = 256
	// lingerFor is how long a refused side gets to read why. Closing with its bytes unread would reset the
	// connection and could take the answer along.
	lingerFor = 250 * time.Millisecond
	// acceptBackoff is the first and maxAcceptBackoff the longest pause after a failed accept, which fails for lack of
	// file descriptors mostly.
	acceptBackoff, maxAcceptBackoff = 5 * time.Millisecond, time.Second
)

// acceptLoop takes connections in. Nothing in it waits for the other side of one.
func (m *Mux) acceptLoop() {
	pause := acceptBackoff
	for {
		conn, err := m.ln.Accept()
		if err == nil {
			pause = acceptBackoff
			m.welcome(conn)
			continue
		}
		if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		m.log.Error("accepting a connection between servers failed", "address", m.ln.Addr(), "error", err, "retry", pause)
		select {
		case <-time.After(pause):
			pause = min(2*pause, maxAcceptBackoff)
		case <-m.ctx.Done():
			return
		}
	}
}

// welcome starts the handshake of a connection.
func (m *Mux) welcome(conn net.Conn) {
	s, err := m.adopt(conn, m.serverSide)
	if err != nil {
		return // closing
	}
	if longest := m.greeting.enter(s); longest != nil {
		m.warn("ended a handshake to make room for another", "remote", longest.RemoteAddr(), "limit", maxHandshakes)
		_ = longest.Close()
	}
	if !m.spawn(func() { m.greet(s) }) {
		m.greeting.leave(s)
		_ = s.Close()
	}
}

// greet does the accepting side of a handshake and then serves the connection.
func (m *Mux) greet(s *socket) {
	h, ok := m.receive(s)
	m.greeting.leave(s)
	if !ok {
		return
	}
	if h.purpose == purposeRaft {
		m.stream.deliver(&raftConn{socket: s, check: newPrecheck(h.from), refused: func(err error) {
			m.warn("closed a raft connection", "server", shown(h.from), "remote", s.RemoteAddr(), "error", err)
		}})
		return
	}
	err := newSession(m.ctx, s, h.from, m.cfg.Handler).run()
	m.log.Debug("call connection ended", "server", shown(h.from), "remote", s.RemoteAddr(), "cause", err)
}

// receive reads a hello and answers it. A connection that is not ok is closed.
func (m *Mux) receive(s *socket) (h hello, ok bool) {
	_ = s.SetDeadline(time.Now().Add(handshakeTimeout))
	id, err := m.authenticate(s)
	if err != nil {
		return h, false
	}
	h, err = readHello(s)
	switch {
	case errors.Is(err, errVersion):
		m.refuse(s, h, err.Error())
		return h, false
	case err != nil: // a port scanner, an HTTP client, silence: not worth an answer
		m.log.Debug("closed a connection without a handshake", "remote", s.RemoteAddr(), "error", err)
		_ = s.Close()
		return h, false
	}
	why := ""
	if id != "" && h.from != id {
		why = fmt.Sprintf("you call yourself %q and your certificate is that of server %q; start the server under the id of its certificate", h.from, id)
	}
	if why == "" {
		why = m.judge(h)
	}
	if why == "" {
		why = m.enroll(s, h.from)
	}
	if why != "" {
		m.refuse(s, h, why)
		return h, false
	}
	_, err = s.Write(m.answer(answerOK, "").encode())
	if err == nil {
		err = s.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = s.Close()
	}
	return h, err == nil
}

// authenticate returns the id in the certificate of whoever has dialed, "" without TLS. Nothing that they send is looked at
// before. After an error the connection is closed.
func (m *Mux) authenticate(s *socket) (id string, err error) {
	if s.tls == nil {
		return "", nil
	}
	if err := s.tls.Handshake(); err != nil {
		_ = s.Close()
		if errors.Is(err, io.EOF) { // a port scanner, or a look whether somebody listens
			m.log.Debug("closed a connection without a handshake", "remote", s.RemoteAddr(), "error", err)
		} else {
			m.warn("closed a connection between servers in the handshake of TLS", "remote", s.RemoteAddr(), "error", shown(err.Error()))
		}
		return "", err
	}
	who, ok, err := m.cfg.Certs.Of(s.tls.ConnectionState())
	if err == nil && (!ok || who.Role != access.Server) {
		err = fmt.Errorf("your certificate is that of %s, and this port is for servers; data nodes and people use the HTTP address", who)
	}
	if err != nil {
		m.refuse(s, hello{}, err.Error())
		return "", err
	}
	return who.ID, nil
}

// judge says why a hello is refused, "" when it is not.
func (m *Mux) judge(h hello) string {
	me, mine := m.cfg.Identity.ID, m.cfg.Identity.Cluster()
	switch {
	case h.from == "" || h.from != shown(h.from):
		return fmt.Sprintf("you gave no server id but %q", shown(h.from))
	case mine != "" && h.cluster != "" && h.cluster != mine:
		return fmt.Sprintf("you belong to cluster %q, this server to %q; check the list of servers, and never copy a data directory", h.cluster, mine)
	case h.from == me:
		return fmt.Sprintf("you call yourself %q, and so does this server; give each server an id of its own, and none its own address as a peer", me)
	case h.target != "" && h.target != me:
		return fmt.Sprintf("you want server %q, this is %q; check the list of servers", h.target, me)
	// Raft knows peers by address alone and counts an answer for the server it meant. If an address passed to
	// another server, that one's disk would count twice towards a majority.
	case h.addr != "" && !strings.EqualFold(h.addr, m.advertise):
		return fmt.Sprintf("you dialed %q, this server is known as %q; use the same addresses on all servers", h.addr, m.advertise)
	case h.purpose == purposeRaft && !m.stream.isOpen():
		return "raft is not running on this server at present; try again"
	case h.purpose == purposeRaft && m.cfg.Refuse != nil:
		return m.cfg.Refuse(h.from)
	}
	return ""
}

// enroll counts a connection for its server, or says why that is refused.
func (m *Mux) enroll(s *socket, id string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.accepted >= maxAccepted:
		return fmt.Sprintf("%d connections are open already, no more are taken; try again", maxAccepted)
	case m.perPeer[id] >= maxPerPeer:
		return fmt.Sprintf("%d connections of server %q are open already, no more are taken; try again", maxPerPeer, id)
	}
	m.accepted++
	m.perPeer[id]++
	s.enrolled = id
	return ""
}

func (m *Mux) answer(code byte, text string) answer {
	return answer{code: code, text: text, id: m.cfg.Identity.ID, cluster: m.cfg.Identity.Cluster()}
}

// refuse says why and closes.
func (m *Mux) refuse(s *socket, h hello, why string) {
	defer func() { _ = s.Close() }()
	m.warn("refused a connection between servers", "server", shown(h.from), "cluster", shown(h.cluster), "remote", s.RemoteAddr(), "reason", shown(why))
	_ = s.SetDeadline(time.Now().Add(lingerFor))
	if _, err := s.Write(m.answer(answerRefused, why).encode()); err != nil {
		return
	}
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok { // of TCP or of TLS
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, s, headSize+maxBody)
}
