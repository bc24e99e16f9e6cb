package respapi

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/resp"
)

// secureTimeout bounds the handshake of TLS: a client that stalls in it holds a place.
const secureTimeout = 5 * time.Second

// The words of Redis, which its clients look for.
const (
	noAuth    = "AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
	wrongPass = "WRONGPASS invalid username-password pair or user is disabled; give a token that is neither revoked nor expired as the password, with any user"
	helloAuth = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
)

// caller is who the commands of a connection are from. It is replaced, never changed.
type caller struct {
	who   access.Who
	token *access.Token // that was shown; nil: none
	// Whose token it is holds while the tokens are those of this index, and until a time; that of a certificate is its end.
	changed   uint64
	expiresMS int64
}

// Who shows nothing is one of two.
var (
	nobody    = &caller{}
	anonymous = &caller{who: access.Who{Role: access.Anonymous}}
)

// ended reports whether the time of the token or certificate is over.
func (k *caller) ended() bool { return k.expiresMS != math.MaxInt64 && nowMS() >= k.expiresMS }

// caller is who the next command is from, by the state of now: a token may have been revoked, or the first one been made.
// Any goroutine may ask.
func (c *conn) caller() *caller {
	known, st := c.known.Load(), c.srv.reg.Newest()
	switch {
	case known == nobody:
		return c.srv.unknown(st)
	case !known.ended() && (known.token == nil || known.changed == st.TokensChanged()):
		return known
	case known.token == nil: // a certificate that was good when it was shown
		return nobody
	}
	who, expires, err := st.Authenticate(*known.token, nowMS())
	if err != nil {
		return nobody
	}
	now := &caller{who, known.token, st.TokensChanged(), expires}
	// Somebody may have shown another token meanwhile, which then counts.
	c.known.CompareAndSwap(known, now)
	return now
}

// unknown is who shows nothing.
func (s *Server) unknown(st *fsm.State) *caller {
	if !s.certsRequired && st.AdmitsAnonymous() {
		return anonymous
	}
	return nobody
}

// refusal is nil if the caller may give the command.
func (cmd *command) refusal(who access.Who) error {
	if cmd.roles>>who.Role&1 == 1 {
		return nil
	}
	if who.Role == access.Nobody {
		return &api.Error{Code: api.Unauthenticated, Detail: "Authentication required. Give a token with AUTH, or show a client certificate."}
	}
	return who.May(cmd.action)
}

// limits are those of the commands to come: of somebody unknown little is held.
func (c *conn) limits() resp.Limits {
	if c.caller().who.Role == access.Nobody {
		return resp.StrangerLimits()
	}
	return resp.DefaultLimits()
}

// secure does the handshake of TLS, and says whom the certificate names.
func (c *conn) secure() error {
	tlsConn, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.srv.down, secureTimeout)
	defer cancel()
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return err
	}
	st := tlsConn.ConnectionState()
	who, shown, err := c.srv.certs.Of(st)
	if err != nil {
		_ = c.send(func(w *resp.Writer) { w.Error("NOAUTH " + oneLineOf(err.Error())) }) // it ends anyway
		return err
	}
	if shown {
		c.known.Store(&caller{who: who, expiresMS: st.PeerCertificates[0].NotAfter.UnixMilli()})
	}
	return nil
}

func (c *conn) auth(args [][]byte) error {
	if err := c.show(args[len(args)-1]); err != nil {
		return err
	}
	return c.done()
}

// show takes a token. The user's name that may stand before it says nothing: the token does. One that is not good leaves
// the connection as it was, as in Redis.
func (c *conn) show(text []byte) error {
	st := c.srv.reg.Newest()
	token, err := access.ParseToken(string(text))
	if err == nil {
		var who access.Who
		var expires int64
		if who, expires, err = st.Authenticate(token, nowMS()); err == nil {
			c.known.Store(&caller{who, &token, st.TokensChanged(), expires})
			c.r.SetLimits(c.limits())
			return nil
		}
	}
	if st.AdmitsAnonymous() {
		return invalid(noAuth)
	}
	return line(wrongPass)
}

// forget takes back what AUTH did.
func (c *conn) forget() {
	if c.known.Load().token != nil {
		c.known.Store(c.certified)
		c.r.SetLimits(c.limits())
	}
}

// user is the caller as CLIENT LIST shows it: whoever is not known is the default user, as in Redis.
func (c *conn) user() string {
	who := c.caller().who
	if who.Role == access.Anonymous {
		return "default"
	}
	return strings.ReplaceAll(who.String(), " ", ",")
}

// origin is the caller as it is recorded with a command.
func (c *conn) origin() *fsm.Origin { return fsm.OriginOf(c.caller().who, c.host, "") }

// errRevoked ends a subscription whose caller may not follow the changes any more.
var errRevoked = &api.Error{Code: api.Unauthenticated, Detail: "the token or certificate of this subscription was revoked or has expired, or the cluster admits nobody unknown any more"}

// untilExpiry is when the caller has to be looked at again although nothing changes.
func (c *conn) untilExpiry(ctx context.Context) (context.Context, context.CancelFunc) {
	if at := c.known.Load().expiresMS; at != 0 && at != math.MaxInt64 {
		return context.WithDeadlineCause(ctx, time.UnixMilli(at), errRevoked)
	}
	return context.WithCancel(ctx)
}

// stillFollows is nil while the caller may follow the changes.
func (c *conn) stillFollows(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errRevoked) || c.caller().who.May(access.Watch) != nil {
		return errRevoked
	}
	return nil
}
