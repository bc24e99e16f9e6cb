package respapi

import (
	"bufio"
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// TestCertificateEnds: whoever keeps a connection open is not let in for longer than the certificate shown on it is good.
func TestCertificateEnds(t *testing.T) {
	dir := certs.Dir(t.TempDir())
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ca, err := dir.Init("east", start)
		if err != nil {
			t.Fatal(err)
		}
		source := func(who access.Who, life time.Duration) *certs.Source {
			one, err := dir.Issue(ca, certs.Wish{Who: who, Life: life}, start, false)
			if err != nil {
				t.Fatal(err)
			}
			s, err := certs.Open(certs.Files{Cert: one.Cert, Key: one.Key, CA: dir.CA()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		b := served(t, newPipes())
		b.admit()
		b.srv.certs = source(access.Who{Role: access.Server, ID: "s1"}, 0)
		viewer := source(access.Who{Role: access.Viewer, ID: "v"}, time.Minute)
		dial := func() *client {
			c := b.dial()
			c.nc = tls.Client(c.nc, viewer.Dial(""))
			c.r = bufio.NewReader(c.nc)
			return c
		}
		c, watching, token := dial(), dial(), dial()
		contains(t, c.ask("SCOPE LIST"), "*2\r\n") // and is through its handshake
		contains(t, watching.ask("SUBSCRIBE scope.events"), "subscribe")
		token.auth("viewer")
		time.Sleep(time.Until(start.Add(time.Minute - time.Millisecond)))
		contains(t, c.ask("SCOPE LIST"), "*2\r\n")
		time.Sleep(time.Millisecond)
		contains(t, c.ask("SCOPE LIST"), "-NOAUTH ")
		contains(t, watching.closed(), "-NOAUTH ", "expired")
		contains(t, token.ask("SCOPE LIST"), "*2\r\n") // which counts, and is good
		token.want("RESET", "+RESET\r\n")
		contains(t, token.ask("SCOPE LIST"), "-NOAUTH ")
	})
}
