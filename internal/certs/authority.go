package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
)

// How long certificates are good for. Nothing revokes one: whoever loses a key is out of danger when its certificate ends.
const (
	day = 24 * time.Hour
	// authorityLife is long, since changing an authority means a visit to every machine.
	authorityLife = 3650 * day
	serverLife    = 90 * day
	nodeLife      = 30 * day
	// personLife is a week: people carry their keys about, and can ask again.
	personLife = 7 * day
	// slack lets clocks differ: a certificate is good from so long before it was made.
	slack = 10 * time.Minute
	// leastLife is worth the making; so short a one is due for renewal at once.
	leastLife = time.Minute
	// maxHosts and maxHost bound the names in a certificate, which goes over the wire at every handshake; 253 is what DNS has.
	maxHosts, maxHost = 32, 253
)

// Life is how long a certificate of a role is good for, unless somebody asks for another time.
func Life(r access.Role) time.Duration {
	switch r {
	case access.Server:
		return serverLife
	case access.Node:
		return nodeLife
	}
	return personLife
}

// Authority signs the certificates of one cluster.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	key     crypto.Signer
}

// Wish is what a certificate is asked to say.
type Wish struct {
	Who   access.Who
	Hosts []string      // names and IP addresses at which others reach it; of servers and nodes only
	Life  time.Duration // 0 is that of the role, see [Life]
}

// NewAuthority makes an authority that can sign for this cluster and no other.
func NewAuthority(cluster string, now time.Time) (*Authority, error) {
	if err := access.CheckCluster(cluster); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the key of an authority: %w", err)
	}
	template, err := template("", now, authorityLife)
	if err != nil {
		return nil, err
	}
	// Of two authorities for one cluster, as while one takes the place of the other, each has a name of its own: servers tell
	// clients by name which ones they trust.
	template.Subject.CommonName = fmt.Sprintf("scope-registry %s authority %s %.8x", cluster, now.UTC().Format(time.DateOnly), template.SerialNumber)
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	// Whoever gets hold of the key can be nobody of another cluster that trusts the authority too.
	template.PermittedDNSDomainsCritical, template.PermittedURIDomains = true, []string{cluster}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Authority{cluster, cert, key}, nil
}

// ReadAuthority reads an authority from the texts of its certificate and key in PEM. Of several certificates it is the one
// that the key belongs to. cluster is needed if the certificate does not say for which one it signs, as that of an authority
// which was made elsewhere.
func ReadAuthority(certs, key []byte, cluster string) (*Authority, error) {
	signer, err := readKey(key)
	if err != nil {
		return nil, err
	}
	for _, cert := range parse(certs) {
		public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !public.Equal(cert.PublicKey) {
			continue
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("the certificate %q that the key belongs to is that of no authority", cert.Subject)
		}
		a := &Authority{cluster, cert, signer}
		if own := cert.PermittedURIDomains; len(own) == 1 {
			if cluster != "" && cluster != own[0] {
				return nil, fmt.Errorf("the authority signs for cluster %q and not for %q; make another one with: scope-registry certs init", own[0], cluster)
			}
			a.cluster = own[0]
		}
		if err := access.CheckCluster(a.cluster); err != nil {
			return nil, fmt.Errorf("the authority does not say for which cluster it signs; give --cluster (%w)", err)
		}
		return a, nil
	}
	return nil, errors.New("no certificate of the authority belongs to its key; are both of the same directory?")
}

func readKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key is not in PEM")
	}
	// The two older forms are what OpenSSL writes for authorities that were made elsewhere.
	parsers := []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
	}
	for _, read := range parsers {
		key, err := read(block.Bytes)
		if signer, ok := key.(crypto.Signer); err == nil && ok {
			return signer, nil
		}
	}
	return nil, fmt.Errorf("the key, a block %q, is none that can sign; it must be without a passphrase", block.Type)
}

// parse reads the certificates of a text, leaving out what is none.
func parse(text []byte) (all []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); block.Type == "CERTIFICATE" && err == nil {
			all = append(all, c)
		}
	}
	return all
}

// Cluster is the name of the cluster that the authority signs for.
func (a *Authority) Cluster() string { return a.cluster }

// Expires is the end of the authority's own certificate.
func (a *Authority) Expires() time.Time { return a.cert.NotAfter }

// PEM is the authority's certificate and its key.
func (a *Authority) PEM() (cert, key []byte, err error) { return encode(a.cert, a.key) }

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(w Wish, now time.Time) (cert, key []byte, err error) {
	if err := w.Check(); err != nil {
		return nil, nil, err
	}
	life := w.Life
	if life == 0 {
		life = Life(w.Who.Role)
	}
	if left := a.cert.NotAfter.Sub(now); left < life {
		return nil, nil, fmt.Errorf("the authority ends on %s, before a certificate for %v would; make a new one as docs/operations.md says, or ask for less with --ttl",
			a.cert.NotAfter.UTC().Format(time.RFC3339), life)
	}
	t, err := template(w.Who.String(), now, life)
	if err != nil {
		return nil, nil, err
	}
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.URIs = []*url.URL{w.Who.URI(a.cluster)}
	for _, h := range w.names() {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	if len(t.DNSNames)+len(t.IPAddresses) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	signed, err := sign(t, a.cert, own.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	return encode(signed, own)
}

// local are the names of this machine, which every server answers to: its health is asked for there.
func local() []string { return []string{"localhost", "127.0.0.1", "::1"} }

// names are the hosts of the certificate, each once.
func (w Wish) names() (all []string) {
	hosts := w.Hosts
	if w.Who.Role == access.Server {
		hosts = append(slices.Clone(hosts), local()...)
	}
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			h = ip.Unmap().String()
		}
		if !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all
}

// Check refuses what no certificate can say.
func (w Wish) Check() error {
	who := w.Who
	switch {
	case who.Role < access.Viewer || who.Role > access.Server:
		return fmt.Errorf("role %s is none that a certificate can have", who.Role)
	case who.ID == "" && (who.Role == access.Server || who.Role == access.Node):
		return fmt.Errorf("a certificate of role %s needs the id of the %s, like: certs issue %s x1", who.Role, who.Role, who.Role)
	case len(w.Hosts) > 0 && who.Role != access.Server && who.Role != access.Node:
		return fmt.Errorf("a certificate of role %s has no hosts: nobody connects to such; leave %s out", who.Role, strings.Join(w.Hosts, ","))
	case len(w.Hosts) > maxHosts:
		return fmt.Errorf("%d hosts are too many for one certificate; give %d at most", len(w.Hosts), maxHosts)
	case w.Life != 0 && (w.Life < leastLife || w.Life > authorityLife):
		return fmt.Errorf("a life of %v is not between %v and %v", w.Life, leastLife, authorityLife)
	}
	if who.ID != "" {
		if err := access.CheckID(who.ID); err != nil {
			return err
		}
	}
	for _, h := range w.Hosts {
		if !isHost(h) {
			return fmt.Errorf("host %q is neither a name nor an IP address; give it without a port, like db1.example.net or 10.0.0.1", h)
		}
	}
	return nil
}

// isHost says whether text is an IP address or a name of letters, digits, hyphens and underscores with dots between.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return !strings.Contains(text, "%")
	}
	if len(text) > maxHost || strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}) {
		return false
	}
	return !slices.Contains(strings.Split(text, "."), "")
}

// template is what all certificates have.
func template(name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return &x509.Certificate{SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-slack), NotAfter: now.Add(life)}, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %q: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func encode(cert *x509.Certificate, key crypto.Signer) (certText, keyText []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("writing the key of %q: %w", cert.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// wishOf is what the holder of a certificate would ask for again.
func wishOf(c *x509.Certificate) (cluster string, w Wish, err error) {
	cluster, w.Who, err = Identity(c)
	w.Life = c.NotAfter.Sub(c.NotBefore) - slack
	w.Hosts = slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		w.Hosts = append(w.Hosts, ip.String())
	}
	return cluster, w, err
}

// due says whether a certificate is to be renewed: when less than a third of its life is left.
func due(c *x509.Certificate, now time.Time) bool {
	return c.NotAfter.Sub(now) < c.NotAfter.Sub(c.NotBefore)/3
}

// pairs says whether certificate and key belong together.
func pairs(cert, key []byte) bool {
	_, err := tls.X509KeyPair(cert, key)
	return err == nil && len(bytes.TrimSpace(key)) > 0
}
