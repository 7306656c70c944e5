"""virtio's shared-memory half: vhost-user, virtqueues and vsock."""
