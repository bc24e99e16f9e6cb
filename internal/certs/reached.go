package certs

import (
	"crypto/tls"
	"errors"

	"github.com/scope-registry/scope-registry/internal/access"
)

// Reached is who was reached over a connection that was dialed with [Source.Dial], whose configuration has verified the
// certificate.
func (s *Source) Reached(st tls.ConnectionState) (access.Who, error) {
	if len(st.PeerCertificates) == 0 {
		return access.Who{}, errors.New("the server showed no certificate")
	}
	_, who, err := Identity(st.PeerCertificates[0])
	return who, err
}
