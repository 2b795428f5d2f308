<?php

declare(strict_types=1);

// Who is signed in: GET asks, POST {"user": "Ada"} signs in, DELETE signs out. There are no passwords in a demo.

require __DIR__ . '/../site.php';

open_session();
switch ($_SERVER['REQUEST_METHOD']) {
    case 'POST':
        $user = read_document()['user'] ?? null;
        if (!is_string($user) || preg_match('/\A[\p{L}\p{N} .-]{1,40}\z/u', $user) !== 1) {
            fail(400, 'bad_name', 'A name has 1 to 40 letters.');
        }
        session_regenerate_id(true);
        $_SESSION = ['user' => $user];
        break;
    case 'DELETE':
        $_SESSION = [];
        break;
}
reply(200, [
    'user' => $_SESSION['user'] ?? null,
    'backend' => getenv('HANDOFFD_DEMO_BACKEND') ?: 'unknown',
    'apache_status' => getenv('HANDOFFD_DEMO_STATUS') ?: '',
]);
