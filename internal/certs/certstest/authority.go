// Package certstest is an authority for tests: unlike that of package certs it signs whatever it is told.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
)

// Authority issues certificates, all of them good for an hour.
type Authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority with a folder of its own, which ends with the test.
func New(t testing.TB) *Authority {
	a := &Authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign(&x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

func (a *Authority) sign(of, by *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if by == nil {
		by, signer = of, key
	}
	if of.NotAfter.IsZero() {
		of.NotAfter = time.Now().Add(time.Hour)
	}
	of.NotBefore = time.Unix(0, 0)
	der, err := x509.CreateCertificate(rand.Reader, of, by, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *Authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue makes a certificate with the identity uri, and files of it.
func (a *Authority) issue(uri *url.URL, ends time.Time) (*x509.Certificate, certs.Files) {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, NotAfter: ends, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, a.cert)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	name := fmt.Sprintf("%s-%s", uri.Host, strings.ReplaceAll(strings.Trim(uri.Path, "/"), "/", "-"))
	return cert, certs.Files{Cert: a.write(name+".pem", "CERTIFICATE", cert.Raw), Key: a.write(name+".key", "EC PRIVATE KEY", der), CA: filepath.Join(a.dir, "ca.pem")}
}

// Source is what somebody of the cluster "test" shows.
func (a *Authority) Source(who access.Who) *certs.Source {
	a.t.Helper()
	return a.SourceOf("test", who)
}

// SourceOf is what somebody of a cluster shows.
func (a *Authority) SourceOf(cluster string, who access.Who) *certs.Source {
	a.t.Helper()
	_, files := a.issue(who.URI(cluster), time.Time{})
	s, err := certs.Open(files, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// Roots are those that believe this authority.
func (a *Authority) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Shown is a connection on which a client has shown a certificate of this identity, which ends then; zero is in an hour.
func (a *Authority) Shown(who access.Who, cluster string, ends time.Time) *tls.ConnectionState {
	a.t.Helper()
	cert, _ := a.issue(who.URI(cluster), ends)
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert, a.cert}}}
}
