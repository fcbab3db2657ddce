# Images with authorized-keys-agent in them, from Amazon Linux 2023, Debian 12 and Ubuntu 24.04:
#   packer init . && packer build -var config=config.toml -var deb=… -var deb_sha256=… -var rpm=… -var rpm_sha256=… .
# One only: -only='*.debian-12' (then the other package need not be there).

packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3.0"
    }
  }
}

variable "config" {
  description = "The config.toml of the fleet; nothing in it may belong to one instance"
  type        = string
}

variable "deb" {
  description = "Package for Debian and Ubuntu"
  type        = string
  default     = "authorized-keys-agent.deb"
}

variable "deb_sha256" {
  description = "Its SHA-256; nothing else is installed"
  type        = string
  default     = ""
}

variable "rpm" {
  description = "Package for Amazon Linux"
  type        = string
  default     = "authorized-keys-agent.rpm"
}

variable "rpm_sha256" {
  description = "Its SHA-256; nothing else is installed"
  type        = string
  default     = ""
}

variable "kernel" {
  description = "Of Amazon Linux, which has images with several: the one in the name of the image"
  type        = string
  default     = "6.12"
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "arm64" {
  description = "For Graviton instead of x86-64; the packages must be for it too"
  type        = bool
  default     = false
}

locals {
  # The names that each publisher uses for the two architectures.
  amazon   = var.arm64 ? "arm64" : "x86_64"
  debian   = var.arm64 ? "arm64" : "amd64"
  instance = var.arm64 ? "t4g.small" : "t3.small"
  version  = formatdate("YYYYMMDDhhmm", timestamp())

  install = <<-EOT
    cloud-init status --wait >/dev/null || true
    cd /tmp
    units="authorized-keys-agent.service authorized-keys-fetch.service"
    # Nothing of the agent runs while the image is made: it would enforce the list on the build instance.
    systemctl mask --runtime $units
    kernels=$(ls /boot)
    if command -v apt-get >/dev/null; then
      package=authorized-keys-agent.deb sum=$DEB_SHA256
    else
      package=authorized-keys-agent.rpm sum=$RPM_SHA256
    fi
    if [ -z "$sum" ]; then echo "deb_sha256 or rpm_sha256 is missing, for $package" >&2; exit 1; fi
    echo "$sum  $package" | sha256sum --check -
    if command -v apt-get >/dev/null; then
      export DEBIAN_FRONTEND=noninteractive
      # No upgrade of the system's own besides.
      systemctl stop apt-daily.timer apt-daily-upgrade.timer || true
      # Its lock has no time limit that could be raised, and at a first boot apt's own timers hold it.
      tries=30
      until apt-get update -q; do tries=$((tries - 1)); [ $tries -gt 0 ]; sleep 10; done
      apt-get install -q -y -o DPkg::Lock::Timeout=300 ./$package
    else
      # The checksum above stands for a signature, which a host by the STIG wants (`localpkg_gpgcheck=1`).
      dnf install -q -y --setopt=localpkg_gpgcheck=0 ./$package
    fi
    if [ "$(ls /boot)" != "$kernels" ]; then echo "the kernel in /boot was changed meanwhile: build again" >&2; exit 1; fi
    install -D -m 644 config.toml /etc/authorized-keys-agent/config.toml
    rm -f $package config.toml
    systemctl unmask --runtime $units
    systemctl enable $units
  EOT

  verify = <<-EOT
    authorized-keys-agent --version
    # One by one: of several it is enough that one is.
    for unit in $units; do systemctl is-enabled $unit; done
    code=0
    authorized-keys-agent status >/dev/null || code=$?
    # 3 says that the config is good and that nothing runs; 2 that the config is refused.
    if [ "$code" != 3 ]; then echo "agent status: exit $code, not 3" >&2; exit 1; fi
  EOT

  # The last thing before the image: nothing starts the services again until an instance of it boots.
  seal = <<-EOT
    systemctl stop $units
    # An image has no keys: those of the list come with the list, a launch key with cloud-init. Then `agent seal` names what is left.
    rm -f /root/.*_history /home/*/.*_history
    for file in /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys; do
      [ ! -e "$file" ] || : >"$file"
    done
    agent seal
    # What else is this instance's own. cloud-init first: it writes a log.
    cloud-init clean --logs
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/systemd/credential.secret
    # What is logged until the stop goes to memory where journald writes it; then nothing but this has the old name.
    journalctl --relinquish-var
    rm -rf /var/log/journal/*
    find /var/log -type f -exec truncate -s 0 {} +
    # Empty, and neither missing nor `uninitialized` (as cloud-init clean --machine-id leaves it): those two mean a first boot
    # (machine-id(5)), at which systemd enables and disables services by preset. D-Bus' copy would become the new one.
    rm -f /var/lib/dbus/machine-id
    : >/etc/machine-id
  EOT
}

source "amazon-ebs" "amazon-linux-2023" {
  region        = var.region
  ami_name      = "authorized-keys-agent-amazon-linux-2023-${local.amazon}-${local.version}"
  instance_type = local.instance
  ssh_username  = "ec2-user"
  imds_support  = "v2.0"

  # Packer's key for this one build: taken out of the file by Packer too, by its name.
  temporary_key_pair_type   = "ed25519"
  ssh_clear_authorized_keys = true

  source_ami_filter {
    owners      = ["amazon"]
    most_recent = true
    filters = {
      name                = "al2023-ami-2023.*-kernel-${var.kernel}-${local.amazon}"
      virtualization-type = "hvm"
    }
  }
  metadata_options {
    http_tokens = "required"
  }
}

source "amazon-ebs" "debian-12" {
  region                    = var.region
  ami_name                  = "authorized-keys-agent-debian-12-${local.debian}-${local.version}"
  instance_type             = local.instance
  ssh_username              = "admin"
  imds_support              = "v2.0"
  temporary_key_pair_type   = "ed25519"
  ssh_clear_authorized_keys = true

  source_ami_filter {
    owners      = ["136693071363"] # Debian
    most_recent = true
    filters = {
      name                = "debian-12-${local.debian}-*"
      virtualization-type = "hvm"
    }
  }
  metadata_options {
    http_tokens = "required"
  }
}

source "amazon-ebs" "ubuntu-24-04" {
  region                    = var.region
  ami_name                  = "authorized-keys-agent-ubuntu-24.04-${local.debian}-${local.version}"
  instance_type             = local.instance
  ssh_username              = "ubuntu"
  imds_support              = "v2.0"
  temporary_key_pair_type   = "ed25519"
  ssh_clear_authorized_keys = true

  source_ami_filter {
    owners      = ["099720109477"] # Canonical
    most_recent = true
    filters = {
      name                = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-${local.debian}-server-*"
      virtualization-type = "hvm"
    }
  }
  metadata_options {
    http_tokens = "required"
  }
}

build {
  sources = [
    "source.amazon-ebs.amazon-linux-2023",
    "source.amazon-ebs.debian-12",
    "source.amazon-ebs.ubuntu-24-04",
  ]

  provisioner "file" {
    only        = ["amazon-ebs.amazon-linux-2023"]
    source      = var.rpm
    destination = "/tmp/authorized-keys-agent.rpm"
  }

  provisioner "file" {
    except      = ["amazon-ebs.amazon-linux-2023"]
    source      = var.deb
    destination = "/tmp/authorized-keys-agent.deb"
  }

  provisioner "file" {
    source      = var.config
    destination = "/tmp/config.toml"
  }

  provisioner "shell" {
    environment_vars = ["DEB_SHA256=${var.deb_sha256}", "RPM_SHA256=${var.rpm_sha256}"]
    execute_command  = "chmod +x {{ .Path }}; sudo {{ .Vars }} {{ .Path }}"
    inline_shebang   = "/bin/sh -eu"
    inline           = [local.install, local.verify, local.seal]
  }
}
