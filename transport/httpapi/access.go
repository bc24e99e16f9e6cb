package httpapi

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

// challenge is what a reply of 401 asks for.
const challenge = `Bearer realm="scope-registry"`

// caller is who asks, with what that rests on.
type caller struct {
	access.Who
	token   access.Token // that was shown, if one was
	expires int64        // end of the token or certificate, milliseconds since 1970
	changed uint64       // index of the last change of tokens when it was looked at
}

// known reports whether the caller has shown who it is.
func (c *caller) known() bool { return c.Role != access.Nobody && c.Role != access.Anonymous }

// node is the id that a node's word is held against, "" of who may speak for any.
func (c *caller) node() string {
	if c.Role == access.Node {
		return c.ID
	}
	return ""
}

func unauthenticated(format string, args ...any) error {
	return &api.Error{Code: api.Unauthenticated, Detail: fmt.Sprintf(format, args...)}
}

// identify says who asks: by the token, else by the certificate of the connection. A token that is not good is refused
// whatever else is shown: its holder believes to be somebody else than the certificate says.
func (s *server) identify(r *http.Request) (caller, error) {
	st := s.reg.State()
	c := caller{expires: math.MaxInt64, changed: st.TokensChanged()}
	if shown := r.Header.Values("Authorization"); len(shown) > 0 {
		var err error
		if c.token, err = bearer(shown); err == nil {
			c.Who, c.expires, err = st.Authenticate(c.token, nowMS())
		}
		return c, err
	}
	if s.certs != nil && r.TLS != nil {
		who, ok, err := s.certs.Of(*r.TLS)
		if err != nil {
			return c, unauthenticated("the client certificate does not do: %v", err)
		}
		if ok {
			c.Who, c.expires = who, r.TLS.PeerCertificates[0].NotAfter.UnixMilli()
			err = c.expired()
			return c, err
		}
	}
	if s.admitsAnonymous(st) {
		c.Role = access.Anonymous
	}
	return c, nil
}

// admitsAnonymous reports whether somebody who shows nothing may do everything.
func (s *server) admitsAnonymous(st fsm.State) bool { return !s.certsRequired && st.AdmitsAnonymous() }

// bearer is the token of the header. The error repeats nothing of it.
func bearer(shown []string) (access.Token, error) {
	scheme, text, _ := strings.Cut(shown[0], " ")
	if len(shown) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return access.Token{}, unauthenticated("the header Authorization is not understood; give it once, as: Bearer srt_ID_SECRET")
	}
	t, err := access.ParseToken(strings.TrimSpace(text))
	if err != nil {
		return t, unauthenticated("%v", err)
	}
	return t, nil
}

// expired is UNAUTHENTICATED after the end of what the caller has shown.
func (c *caller) expired() error {
	if nowMS() < c.expires {
		return nil
	}
	return unauthenticated("the token or certificate of %s has expired; ask an admin for another", c.Who)
}

// still is nil while the caller is, in a state, who it was when it was looked at.
func (c *caller) still(st fsm.State) error {
	if err := c.expired(); err != nil || st.TokensChanged() == c.changed {
		return err
	}
	c.changed = st.TokensChanged()
	switch {
	case c.token.ID != "":
		who, _, err := st.Authenticate(c.token, nowMS())
		if err == nil && who != c.Who {
			err = unauthenticated("token %q is %s now, and was %s; begin anew", c.token.ID, who, c.Who)
		}
		return err
	case c.Role == access.Anonymous && !st.AdmitsAnonymous():
		return access.Unknown()
	}
	return nil
}

// callerOf is who asks in the request that ctx belongs to: nobody before [server.admit].
func callerOf(ctx context.Context) *caller { return &replyOf(ctx).caller }

// admit looks whether who asks may do what an operation does, before anything of the body is read. leave is called when
// the request ends.
func (s *server) admit(r *reply, a access.Action) (leave func(), err error) {
	r.operation = string(a)
	if access.Nobody.Reach(a) != access.Never { // open to everybody, and so no reason to keep the connection
		r.spare()
		return func() {}, nil
	}
	r.caller, err = s.identify(r.request)
	if err == nil {
		err = r.caller.May(a)
	}
	if err != nil {
		r.spare()
		return nil, err
	}
	if r.caller.known() {
		r.vouch()
	}
	switch a {
	case access.RenewSession: // whoever takes all the room for others shall not take his own node's lease with it
		return s.renewals.take(r.identity(), "renewals under way")
	case access.Watch:
		return s.watches.take(r.identity(), "watchers")
	}
	return s.requests.take(r.identity(), "requests under way")
}

// identity is what the limits of one caller are counted by.
func (r *reply) identity() string {
	if r.caller.known() {
		return r.caller.String()
	}
	return r.caller.String() + "@" + remoteHost(r.request.Context())
}

// confirm looks at the caller again, in a state as new as a linearizable read. It is for what is no command: commands
// are looked at where they are applied, but this server may not have heard yet that a token was revoked, or made.
func (s *server) confirm(ctx context.Context, a access.Action) error {
	st, err := s.reg.Read(ctx, api.ReadOptions{Consistency: "linearizable"})
	if err != nil {
		return err
	}
	c := callerOf(ctx)
	if err := c.still(st); err != nil {
		return err
	}
	if c.Prefix != "" {
		return &api.Error{Code: api.Forbidden, Detail: fmt.Sprintf("%s changes scopes under %q only, and this (%s) is more", c.Who, c.Prefix, a)}
	}
	return nil
}
