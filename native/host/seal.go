package host

// What is kept in NATS is read by whoever may read there. The list of members has a secret.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
)

// sealer encrypts with a key that is made of the hosts' join token.
type sealer struct{ gcm cipher.AEAD }

func (r *run) sealer() sealer {
	key := sha256.Sum256([]byte("ravnest members\n" + r.opt.Token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(fmt.Sprintf("host: %v", err)) // the key has the right length
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(fmt.Sprintf("host: %v", err))
	}
	return sealer{gcm}
}

func (s sealer) seal(plain []byte) []byte { return s.gcm.Seal(nil, nil, plain, nil) }

func (s sealer) open(sealed []byte) ([]byte, error) {
	plain, err := s.gcm.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, errors.New("it was sealed with another token: give every host the same --token")
	}
	return plain, nil
}
