// Package certs shows who a program is by its certificate, and tells who the other side is by that of it. Certificates
// are read anew when their files change. It also makes them: a certificate authority of its own for those who have none.
package certs
