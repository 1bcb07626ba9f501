// A block server that answers as EBS direct does, for measuring clients: a thread a connection, plain or TLS.
// It checks nothing and keeps nothing. usage: ebsd PORT IMG NBLOCKS [cert key] [latency_us]
#define _GNU_SOURCE
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <openssl/sha.h>
#include <openssl/evp.h>
#define BS 524288
static unsigned char *blk; static int nb; static char (*sum)[64]; static SSL_CTX *ctx; static int lat;
static long rd(SSL*s,int fd,void*b,size_t n){return s?SSL_read(s,b,n):read(fd,b,n);}
static int wr(SSL*s,int fd,const void*b,size_t n){const char*p=b;while(n){long k=s?SSL_write(s,p,n):write(fd,p,n);if(k<=0)return -1;p+=k;n-=k;}return 0;}
static void*serve(void*a){
  int fd=(int)(long)a; int one=1; setsockopt(fd,IPPROTO_TCP,TCP_NODELAY,&one,sizeof one);
  SSL*s=NULL; if(ctx){s=SSL_new(ctx);SSL_set_fd(s,fd);if(SSL_accept(s)<=0){SSL_free(s);close(fd);return 0;}}
  char*h=malloc(65536); char*body=malloc(BS+65536); size_t have=0;
  for(;;){
    char*e; while(!(h[have]=0,e=memmem(h,have,"\r\n\r\n",4))){ if(have>60000)goto out; long k=rd(s,fd,h+have,65000-have); if(k<=0)goto out; have+=k; }
    size_t hl=e+4-h; int put=h[0]=='P'&&h[1]=='U'; int post=h[0]=='P'&&h[1]=='O'; *e=0;
    char*cl=strcasestr(h,"\ncontent-length:"); size_t n=cl?strtoul(cl+16,0,10):0;
    char*te=strcasestr(h,"\ntransfer-encoding: chunked");
    char*ck=strcasestr(h,"\nx-amz-checksum:"); char csum[80]=""; if(ck){ck+=16;while(*ck==' ')ck++;int i=0;while(*ck&&*ck!='\r'&&i<70)csum[i++]=*ck++;csum[i]=0;}
    char*bp=strstr(h,"/blocks/"); long idx=bp?atol(bp+8):0;
    if(strcasestr(h,"\nexpect: 100")) wr(s,fd,"HTTP/1.1 100 Continue\r\n\r\n",25);
    size_t rest=have-hl, got=rest<n?rest:n; if(n>BS+65536) goto out;
    memcpy(body,h+hl,got); size_t extra=rest-got; memmove(h,h+hl+got,extra); have=extra;
    if(te) goto out;
    while(got<n){long k=rd(s,fd,body+got,n-got); if(k<=0)goto out; got+=k;}
    if(lat) usleep(lat);
    char r[512]; int rl;
    if(put){ rl=snprintf(r,512,"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nx-amz-Checksum: %s\r\nx-amz-Checksum-Algorithm: SHA256\r\nx-amzn-RequestId: 0123\r\n\r\n",csum); if(wr(s,fd,r,rl))goto out; }
    else if(post){ rl=snprintf(r,512,"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"); if(wr(s,fd,r,rl))goto out; }
    else { int i=idx%nb; rl=snprintf(r,512,"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nx-amz-Data-Length: %d\r\nx-amz-Checksum: %s\r\nx-amz-Checksum-Algorithm: SHA256\r\nx-amzn-RequestId: 0123\r\n\r\n",BS,BS,sum[i]);
      if(wr(s,fd,r,rl)||wr(s,fd,blk+(size_t)i*BS,BS))goto out; }
  }
out: free(h);free(body); if(s){SSL_free(s);} close(fd); return 0;
}
int main(int c,char**v){
  signal(SIGPIPE,SIG_IGN); int port=atoi(v[1]); nb=atoi(v[3]); blk=malloc((size_t)nb*BS); sum=malloc(64*nb);
  FILE*f=fopen(v[2],"rb"); size_t got=0; int i=0; fseek(f,64<<20,0);
  while(i<nb){ if(fread(blk+(size_t)i*BS,1,BS,f)!=BS){fprintf(stderr,"short\n");return 1;} unsigned char*p=blk+(size_t)i*BS; if(p[0]==0&&!memcmp(p,p+1,BS-1))continue; unsigned char d[32];SHA256(p,BS,d);EVP_EncodeBlock((unsigned char*)sum[i],d,32); i++; }
  if(c>5){ctx=SSL_CTX_new(TLS_server_method());SSL_CTX_use_certificate_file(ctx,v[4],SSL_FILETYPE_PEM);SSL_CTX_use_PrivateKey_file(ctx,v[5],SSL_FILETYPE_PEM);
    SSL_CTX_set_ciphersuites(ctx,"TLS_AES_128_GCM_SHA256");SSL_CTX_set_mode(ctx,SSL_MODE_ENABLE_PARTIAL_WRITE);}
  if(c>6)lat=atoi(v[6]); if(c==5)lat=atoi(v[4]);
  int l=socket(AF_INET,SOCK_STREAM,0),one=1;setsockopt(l,SOL_SOCKET,SO_REUSEADDR,&one,sizeof one);
  struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(port)};a.sin_addr.s_addr=htonl(INADDR_LOOPBACK);
  if(bind(l,(void*)&a,sizeof a)||listen(l,1024)){perror("bind");return 1;}
  for(;;){int fd=accept(l,0,0);if(fd<0)continue;pthread_t t;pthread_attr_t at;pthread_attr_init(&at);pthread_attr_setstacksize(&at,262144);pthread_attr_setdetachstate(&at,1);pthread_create(&t,&at,serve,(void*)(long)fd);}
}
