package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// TLSSend is [HTTPSend] over TLS: the other node is believed by its certificate, which must be of that node, and is shown
// this node's. All three files are needed; they are read now, which may fail, and anew when they change.
func TLSSend(t TLS) (Send, error) {
	source, err := certs.Open(certs.Files{CA: t.CA, Cert: t.Cert, Key: t.Key}, nil)
	if err != nil {
		return nil, err
	}
	n := &nodeClients{source: source, made: map[string]*http.Client{}}
	return sender("https", n.of), nil
}

// nodeClients are HTTP clients, one for each node: a connection that was made to one is not used for another that has its
// address now.
type nodeClients struct {
	source *certs.Source

	mu   sync.Mutex // guards made
	made map[string]*http.Client
}

func (n *nodeClients) of(node string) *http.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.made[node]
	if h == nil {
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: sliceDial}, Config: n.source.DialNode(node)}
			ctx, cancel := context.WithTimeout(ctx, 2*sliceDial)
			defer cancel()
			conn, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, &net.OpError{Op: "dial", Net: network, Err: err} // nothing was sent
			}
			return conn, nil
		}
		h = &http.Client{Transport: &http.Transport{DialTLSContext: dial, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		n.made[node] = h
	}
	return h
}

// mayCome refuses a batch that comes over TLS from anybody but the source of its move, by the certificate that the listener
// has verified. Without TLS nobody is known, and whoever reaches the port may send. A move that the view does not show
// is refused by whoever takes the batch; a long batch before it is held.
func (s *Session) mayCome(over *tls.ConnectionState, move string, long bool) error {
	m, running := s.adm.Rules().View().Move(move)
	if long && (!running || string(m.To) != s.cfg.Node) {
		return refusal(api.NotFound, move, "node %q does not see it come (yet), and does not take a batch of more than %d bytes of it", s.cfg.Node, usualBody)
	}
	if over == nil {
		return nil
	}
	if len(over.VerifiedChains) == 0 {
		return refusal(api.Unauthenticated, move, "records come over TLS from somebody without a certificate; the source of the move has to show its own, of role node")
	}
	_, who, err := certs.Identity(over.PeerCertificates[0])
	if err != nil {
		return refusal(api.Unauthenticated, move, "the sender's certificate: %v", err)
	}
	if running && (who.Role != access.Node || who.ID != string(m.From)) {
		return refusal(api.Forbidden, move, "records come from %s, and node %q is the source; only that may send them", who.String(), m.From)
	}
	return nil
}
